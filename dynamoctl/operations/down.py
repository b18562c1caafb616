"""Take a deployment down and prove that nothing of it is left."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamoctl.errors import DynamoctlError, LeftoverError
from dynamoctl.host import gpus, ports, processes
from dynamoctl.host.processes import is_running, members
from dynamoctl.state import DeploymentState, Folder
from dynamoctl.supervisor import process, removal

_POLL_S = 0.2
# A supervisor that stops its units one after another, each with its full grace, needs less.
_SUPERVISOR_PATIENCE_S = 180.0
# The driver takes a dead process's memory back a moment later.
_GPU_PATIENCE_S = 10.0


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
    pids = {one.pid for one in members(f"{state.start_id}/")}
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
        left = _sweep(folder, state, _ports_that_were_ours(state) if was_running else {}, pids)
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


def _ports_that_were_ours(state: DeploymentState) -> dict[int, str]:
    """Port -> unit, of the units whose gates have passed: only then is the listener known to be theirs."""
    return {port: unit.name for unit in state.units if unit.ready_at for port in unit.ports.values()}


def _sweep(folder: Folder, state: DeploymentState, listened: dict[int, str], pids: set[int]) -> list[str]:
    """Remove what a supervisor has left (nothing, unless it died); give back what stays.

    Args:
        listened: ports that no one may listen on afterwards, with their units.
        pids: its processes, as far as they lived when this began.
    """
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
    if listened:
        taken = ports.listened_on(listened)
        left += [f"port {port} of {listened[port]}, by {ports.holder(port)}" for port in taken]
    if any(unit.gpus for unit in state.units):
        left += _gpu_memory_of(pids)
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


def _gpu_memory_of(pids: set[int]) -> list[str]:
    """GPU memory that the driver still counts for these processes, which have ended.

    In a container the driver may count by pids of the host; then there is nothing to see here.
    """
    deadline = time.monotonic() + _GPU_PATIENCE_S
    while True:
        held = [
            f"{mib} MiB on GPU {gpu} of process {pid}"
            for gpu, by_pid in gpus.memory_by_process().items()
            for pid, mib in by_pid.items()
            if pid in pids
        ]
        if not held or time.monotonic() > deadline:
            return held
        time.sleep(_POLL_S)
