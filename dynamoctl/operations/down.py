"""Take a deployment down and prove that nothing of it is left."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamoctl.errors import DynamoctlError, LeftoverError
from dynamoctl.host import processes
from dynamoctl.host.processes import is_running, members
from dynamoctl.state import DeploymentState, Folder
from dynamoctl.supervisor import process, removal

_POLL_S = 0.2
# A supervisor that stops its units one after another, each with its full grace, needs less.
_SUPERVISOR_PATIENCE_S = 180.0


@dataclass
class Down:
    """What `down` did.

    Attributes:
        was_running: whether there was anything to take down.
        removed: the units that were stopped.
    """

    name: str
    was_running: bool
    removed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def down(name: str, on_state: Callable[[DeploymentState], None]) -> Down:
    """Stop everything of a deployment. Nothing there is fine.

    Raises:
        LeftoverError: something could not be removed; the message names it.
    """
    began = time.monotonic()
    folder = Folder(name)
    if not folder.path.exists():
        return Down(name, was_running=False)
    state = _read(folder)
    if state is None:
        return Down(name, was_running=False)
    ran = [unit.name for unit in state.units if unit.identity and is_running(unit.identity)]
    was_running = state.supervisor_lives or bool(ran)
    if state.supervisor is not None and state.supervisor_lives:
        process.send(state.supervisor, signal.SIGTERM)
        deadline = time.monotonic() + _SUPERVISOR_PATIENCE_S
        while is_running(state.supervisor):
            on_state(folder.read_state() or state)
            if time.monotonic() > deadline:
                process.send(state.supervisor, signal.SIGKILL)
            process.reap()
            time.sleep(_POLL_S)
        state = folder.read_state() or state
    with folder.lock():
        left = _sweep(folder, state)
    if left:
        raise LeftoverError(
            f"could not remove all of '{name}': " + "; ".join(left),
            "end those by hand, then run `dynamoctl down` again",
        )
    return Down(name, was_running, ran, time.monotonic() - began)


def _read(folder: Folder) -> DeploymentState | None:
    """The state; where it is damaged, what the plan still knows."""
    try:
        return folder.read_state()
    except DynamoctlError:
        plan = folder.read_plan()
        if plan is None:
            raise
        return DeploymentState(folder.name, "", "", "", str(plan["start_id"]))


def _sweep(folder: Folder, state: DeploymentState) -> list[str]:
    """Remove what a supervisor has left (nothing, unless it died); give back what stays."""
    shared = set(state.shared_memory)
    left: list[str] = []
    if members(f"{state.start_id}/"):
        for unit in (u for roles in removal.STOP_ORDER for u in state.units if u.role in roles):
            if unit.identity is not None and is_running(unit.identity):
                shared |= processes.shared_memory_of(
                    one.pid for one in members(f"{state.start_id}/{unit.name}", unit.identity)
                )
                removal.terminate_and_wait(unit.identity, grace_s=30.0)
        left += removal.describe(removal.kill_members(f"{state.start_id}/", None, shared))
    for unit in state.units:
        stay = removal.kill_members(f"{state.start_id}/{unit.name}", unit.identity, shared)
        left += removal.describe(stay)
    still = removal.remove_shared_memory(shared)
    left += still
    left += removal.remove_folders(folder.store, folder.path / "run")
    with contextlib.suppress(OSError):
        folder.socket.unlink()
    if state.state not in ("stopped", "failed") or left:
        state.state = "failed" if left else "stopped"
        state.shared_memory = still
        for unit in state.units:
            unit.state = "stopped" if not left else unit.state
        folder.write_state(state)
    return left
