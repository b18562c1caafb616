"""The deployment that a command talks to: it must be up and serve."""

from __future__ import annotations

from dynamoctl.errors import NotReadyError, SpecError
from dynamoctl.state import DeploymentState, Folder, not_running


def serving(name: str) -> DeploymentState:
    """The state of a deployment that serves now.

    Raises:
        SpecError: nothing of this name runs.
        NotReadyError: it does not serve now.
    """
    state = Folder(name).read_state()
    if state is None or not state.supervisor_lives:
        raise SpecError(not_running(name), "bring it up first, or name another with -n")
    if state.state not in ("ready", "degraded"):
        raise NotReadyError(f"'{name}' is {state.state}", f"see: dynamoctl status -n {name}")
    return state


def require_frontend(state: DeploymentState) -> None:
    """Raise SpecError where requests cannot be sent to it from here."""
    if not state.endpoint:
        raise SpecError(f"the frontend of '{state.name}' is on another host", "ask there")
