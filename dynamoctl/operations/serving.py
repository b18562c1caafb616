"""The deployment that a command talks to: it must be up and serve."""

from __future__ import annotations

from dynamoctl.errors import DynamoctlError, NotReadyError, SpecError
from dynamoctl.operations.status import not_running
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import DeploymentDir, DeploymentState


def serving(name: str) -> DeploymentState:
    """The state of a deployment that serves now.

    Raises:
        SpecError: nothing of this name runs.
        NotReadyError: it does not serve now.
    """
    state = DeploymentDir(name).read_state()
    if state is None or not state.supervisor_lives:
        raise SpecError(not_running(name), "bring it up first, or name another with -n")
    if state.state not in ("ready", "degraded"):
        raise NotReadyError(f"'{name}' is {state.state}", f"see: dynamoctl status -n {name}")
    return state


def serving_plan(name: str) -> DeploymentPlan:
    """The plan of a deployment that serves now.

    Raises:
        SpecError: nothing of this name runs.
        NotReadyError: it does not serve now.
        DynamoctlError: its plan is missing or damaged.
    """
    serving(name)
    return read_plan(DeploymentDir(name))


def read_plan(folder: DeploymentDir) -> DeploymentPlan:
    """The plan that a deployment was started with.

    Raises:
        DynamoctlError: `plan.json` is missing or damaged. What runs is not affected.
    """
    hint = f"take it down (dynamoctl down -n {folder.name}), then start it again"
    body = folder.read_plan()
    if body is None:
        raise DynamoctlError(f"{folder.plan_file} is missing", hint)
    try:
        return DeploymentPlan.from_json(body["plan"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DynamoctlError(f"{folder.plan_file} is damaged ({error!r})", hint) from None


def require_frontend(state: DeploymentState) -> None:
    """Raise SpecError where requests cannot be sent to it from here."""
    if not state.endpoint:
        raise SpecError(f"the frontend of '{state.name}' is on another host", "ask there")
