"""Take a deployment down and verify that nothing of it is left."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamoctl import policies
from dynamoctl.errors import DynamoctlError, LeftoverError
from dynamoctl.host import gpus, ports, processes
from dynamoctl.host.files import Files
from dynamoctl.host.processes import Identity, is_running, members, members_of_each
from dynamoctl.processes import cleanup, process_control
from dynamoctl.state import DeploymentDir, DeploymentState
from dynamoctl.supervisor import revisions

_POLL_S = 0.2
# How long a supervisor may take to write its first state, in seconds. It rewrites a deleted one after 2 s.
_FIRST_STATE_PATIENCE_S = 30.0
# How long the driver may take to free a dead process's memory, in seconds.
_GPU_PATIENCE_S = 10.0


@dataclass
class Down:
    """The result of `down`.

    Attributes:
        name: the deployment.
        was_running: whether anything of it was running.
        removed: the units that were stopped.
        seconds: how long it took.
    """

    name: str
    was_running: bool
    removed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def down(name: str, on_state: Callable[[DeploymentState], None]) -> Down:
    """Stop everything of a deployment. It is not an error if nothing is running.

    Args:
        on_state: called with the state while the units stop.

    Raises:
        LeftoverError: something could not be removed; the message names it.
    """
    began = time.monotonic()
    folder = DeploymentDir(name)
    if not folder.exists() and not process_control.supervisors(folder.path):
        return Down(name, was_running=False)
    with folder.lock():  # an `up` holds the lock until its supervisor has started
        state = _read(folder) or _about_to_start(folder)
    if state is None:
        return Down(name, was_running=False)
    ran = [unit.name for unit in state.units if unit.identity and is_running(unit.identity)]
    was_running = state.supervisor_lives or bool(ran)
    pids = {process.pid for process in members(f"{state.start_id}/")}
    listeners = ports.listeners(_ports(state)) if was_running else set()
    if state.supervisor is not None and state.supervisor_lives:
        process_control.send(state.supervisor, signal.SIGTERM)
        deadline = time.monotonic() + policies.SUPERVISOR_PATIENCE_S + 3 * _drain_s(folder)
        while is_running(state.supervisor):
            on_state(_latest(folder, state))
            if time.monotonic() > deadline:
                process_control.send(state.supervisor, signal.SIGKILL)
            process_control.reap()
            time.sleep(_POLL_S)
        state = _latest(folder, state)
    with folder.lock():
        left = _sweep(folder, state, listeners, pids)
    if left:
        raise LeftoverError(
            f"could not remove all of '{name}': " + "; ".join(left),
            "remove these by hand, then run `dynamoctl down` again",
        )
    return Down(name, was_running, ran, time.monotonic() - began)


def _read(folder: DeploymentDir) -> DeploymentState | None:
    """The state; if it is damaged or has another version, a state from what else is known."""
    try:
        return folder.read_state()
    except DynamoctlError:
        return _without_a_state(folder, process_control.supervisors(folder.path))


def _without_a_state(folder: DeploymentDir, supervisors: list[Identity]) -> DeploymentState:
    """A state from the plan and the processes, for a deployment without a readable state."""
    supervisor = supervisors[0] if supervisors else None
    state = DeploymentState(folder.name, "", "", "", _start_id(folder), supervisor=supervisor)
    state.record_files(cleanup.files_of_plan(folder))
    return state


def _latest(folder: DeploymentDir, before: DeploymentState) -> DeploymentState:
    try:
        return folder.read_state() or before
    except DynamoctlError:
        return before


def _start_id(folder: DeploymentDir) -> str:
    """The start id from the plan; if that is damaged, from a process that works in the folder."""
    with contextlib.suppress(DynamoctlError):
        if (plan := folder.read_plan()) is not None:
            return str(plan["start_id"])
    for pid in processes.all_pids():
        mark = processes.environment_of(pid, processes.MARK)
        if mark and processes.works_in(pid, folder.path / "run"):
            return mark.partition("/")[0]
    return ""


def _drain_s(folder: DeploymentDir) -> float:
    """What the requests in flight of each unit get, seconds; the default if the plan does not tell."""
    with contextlib.suppress(DynamoctlError, KeyError, TypeError, ValueError):
        return float((folder.read_plan() or {})["plan"]["drain_s"])
    return policies.DRAIN_S


def _about_to_start(folder: DeploymentDir) -> DeploymentState | None:
    """The state if there is no state file: `up` was killed, or the folder was deleted."""
    supervisors = process_control.supervisors(folder.path)
    if not supervisors:
        known = _without_a_state(folder, [])
        return known if known.files else None
    deadline = time.monotonic() + _FIRST_STATE_PATIENCE_S
    while time.monotonic() < deadline and is_running(supervisors[0]):
        if (state := folder.read_state()) is not None:
            return state
        time.sleep(_POLL_S)
    return _without_a_state(folder, supervisors)


def _ports(state: DeploymentState) -> dict[int, str]:
    """Port -> unit, for units that were ready: only then the listener is known to be the unit's."""
    return {port: unit.name for unit in state.units if unit.ready_at for port in unit.ports.values()}


def _stop(leader: Identity, mark: str, drain_s: float, files: Files) -> None:
    """Have a unit end, and note the files that it has and makes meanwhile."""
    memory = processes.NewMemory()

    def note() -> None:
        files.update(processes.files_of(process.pid for process in members(mark, leader)))

    def tick() -> None:
        process_control.reap()
        if memory.is_there():
            note()

    note()
    cleanup.terminate_and_wait(leader, policies.stop_grace_s(drain_s), tick)


def _sweep(
    folder: DeploymentDir, state: DeploymentState, listeners: set[tuple[int, int]], pids: set[int]
) -> list[str]:
    """Remove what the supervisor left (nothing, unless it died); return what remains.

    Args:
        listeners: (port, pid) of the processes that listened on the deployment's ports when `down` began.
            They must be gone; another process may use the port by now.
        pids: pids of the deployment's processes that lived when `down` began.
    """
    shared = cleanup.own_files(state)
    left: list[str] = []
    folder.remove_targets()
    if members(f"{state.start_id}/"):
        for unit in (u for roles in policies.STOP_ORDER for u in state.units if u.role in roles):
            if unit.identity is not None and is_running(unit.identity):
                _stop(unit.identity, f"{state.start_id}/{unit.name}", _drain_s(folder), shared)
        left += cleanup.describe(cleanup.kill_members(f"{state.start_id}/", None, shared))
    leaders = {f"{state.start_id}/{unit.name}": unit.identity for unit in state.units}
    for mark, alive in members_of_each(leaders).items():
        if alive:
            left += cleanup.describe(cleanup.kill_members(mark, leaders[mark], shared))
    if listeners:
        owner = _ports(state)
        still_open = listeners & ports.listeners(owner)
        left += [
            f"port {port} of {owner[port]}, by process {pid} ({processes.command_line(pid)})"
            for port, pid in sorted(still_open)
        ]
    if any(unit.gpus for unit in state.units):
        left += _gpu_memory_of(pids)
    remaining_files = cleanup.remove_files(shared)
    left += remaining_files
    left += cleanup.remove_folders(folder.store, folder.path / "run")
    with contextlib.suppress(OSError):
        folder.socket.unlink()
    if state.state not in ("stopped", "failed") or left:
        state.state = "failed" if left else "stopped"
        state.record_files(remaining_files)
        if state.change is not None:
            revisions.settle(folder, state.change.revision, revisions.INTERRUPTED)
            state.change = None
        for unit in state.units:
            unit.state = "stopped" if not left else unit.state
        folder.write_state(state)
    return left


def _gpu_memory_of(pids: set[int]) -> list[str]:
    """GPU memory that the driver still attributes to these processes, which have ended.

    In a container, NVML may report pids of the host's pid namespace; then nothing is found.
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
