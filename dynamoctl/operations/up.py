"""Bring a deployment up: check, write the plan, start its supervisor, wait."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamoctl.checks import registry
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import DynamoctlError, NotReadyError, PreflightError, SpecError
from dynamoctl.host import models
from dynamoctl.host.facts import memory_gib
from dynamoctl.host.files import Files, files_as_json
from dynamoctl.host.processes import Identity, is_running, members
from dynamoctl.logs import files
from dynamoctl.logs.phases import last_lines
from dynamoctl.operations import conversion
from dynamoctl.operations.planning import PlanningResult, with_own_ports
from dynamoctl.planner import rescaling
from dynamoctl.planner.plan import SCHEMA
from dynamoctl.planner.secrets import redact
from dynamoctl.processes import cleanup, process_control
from dynamoctl.state import DeploymentDir, DeploymentState, starts_in_turn
from dynamoctl.supervisor import revisions
from dynamoctl.supervisor.revisions import Revision

_POLL_S = 0.2
# How long a supervisor may take to exit after it reported `failed`, in seconds.
_END_PATIENCE_S = 10.0

OnState = Callable[[DeploymentState], None]
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class Up:
    """The result of a successful `up`.

    Attributes:
        state: the deployment's state.
        already: whether it was up before, with the same plan.
        seconds: time from the start to ready.
    """

    state: DeploymentState
    already: bool
    seconds: float


def up(planned: PlanningResult, keep: bool, on_state: OnState, on_progress: OnProgress) -> Up:
    """Bring a deployment up, or wait for one that is up or starting with the same plan.

    Args:
        keep: whether started units stay up if the start fails.
        on_state: called with each new state while the units start.
        on_progress: called with (step, fraction done) while the model is prepared.

    Raises:
        SpecError: the deployment is up with another plan.
        PreflightError: this host cannot run the plan.
        NotReadyError: a unit died during the start, or the timeout passed. Nothing is left running, unless
            `keep` is set.
        KeyboardInterrupt: the user interrupted the start. Nothing is left running.
    """
    folder = DeploymentDir(planned.spec.name)
    with folder.lock():
        state = _running(folder)
        already = state is not None
        if state is None:
            state = _start(planned, folder, keep, on_progress)
        else:
            _require_same(planned, folder, state)
    supervisor = state.supervisor
    assert supervisor is not None
    try:
        ready = _wait(folder, state, supervisor, on_state)
    except KeyboardInterrupt:
        if not already:
            interrupt(folder, supervisor, on_state)
        raise
    return Up(ready, already and state.state == "ready", ready.ready_at - ready.created_at)


def _running(folder: DeploymentDir) -> DeploymentState | None:
    """The state of a deployment that is up or starting; None if nothing of it runs.

    Raises:
        PreflightError: it is being taken down, or its supervisor is gone but its processes are not.
    """
    state = folder.read_state()
    if state is None:
        return None
    if state.supervisor_lives:
        if state.state == "stopping":
            raise PreflightError(
                f"'{folder.name}' is being taken down", "try again when `dynamoctl down` has ended"
            )
        return state
    alive = members(f"{state.start_id}/")
    if alive:
        raise PreflightError(
            f"the supervisor of '{folder.name}' is gone, but {len(alive)} of its processes still run",
            f"remove them first: dynamoctl down -n {folder.name}",
        )
    return None


def _require_same(planned: PlanningResult, folder: DeploymentDir, state: DeploymentState) -> None:
    """Raise SpecError if the running deployment has another spec than the requested one."""
    body = folder.read_plan() or {}
    # A plan of an earlier version lacks newer settings; it runs with their defaults.
    old: dict[str, Any] = {**DeploymentSpec().model_dump(mode="json"), **body.get("spec", {})}
    new = planned.spec.model_dump(mode="json")
    differs = list(_differences(old, new))
    if differs:
        raise SpecError(
            f"'{folder.name}' is {state.state} with another plan",
            "\n".join(
                [
                    *(
                        f"{key}: is {redact(was, key)!r}, requested {redact(wanted, key)!r}"
                        for key, was, wanted in differs
                    ),
                    _how_to_change(folder.name, [key for key, _, _ in differs]),
                ]
            ),
        )


def _how_to_change(name: str, keys: list[str]) -> str:
    other = "or give this one another name and port: -n NAME --port PORT"
    if rescaling.FIXED.keys().isdisjoint(keys):
        return f"change it while it is up (dynamoctl apply, with the same arguments), {other}"
    return f"take it down first (dynamoctl down -n {name}), {other}"


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Any:
    # The timeout is a setting of the command, not of the deployment.
    for key in sorted((old.keys() | new.keys()) - {"timeout_s"}):
        was, wanted = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(wanted, dict):
            yield from _differences(was, wanted, f"{prefix}{key}.")
        elif was != wanted:
            yield prefix + key, was, wanted


def _start(
    planned: PlanningResult, folder: DeploymentDir, keep: bool, on_progress: OnProgress
) -> DeploymentState:
    """Check the host, prepare the model and the folder, start the supervisor."""
    earlier, facts = _clear(folder), planned.facts
    if facts.memory_available_gib < (available := memory_gib()[1]):
        facts = replace(facts, memory_available_gib=available)  # `_clear` has freed memory
    warnings = registry.require(registry.check(planned.plan, facts, planned.model))
    warnings += [
        f"{path} of an earlier start could not be removed: it is in use, or permission is denied"
        for path in earlier
    ]
    if planned.model.builtin and planned.model.folder is None:
        conversion.convert_builtin(models.builtin_gguf(), Path(planned.model.path), on_progress)
    for tier in planned.plan.lmcache_tiers:
        if tier.kind in ("disk", "gds"):
            # LMCache would make it world-readable, and parts of prompts can be recovered from the KV cache.
            Path(tier.place).mkdir(mode=0o700, parents=True, exist_ok=True)
    cleanup.remove_folders(folder.store, folder.path / "run")
    folder.store.mkdir(parents=True)
    _set_logs_aside(folder)
    folder.remove_targets()  # those of an earlier start; the supervisor writes new ones when it is ready
    with starts_in_turn():
        return _begin(with_own_ports(planned), folder, keep, warnings, earlier)


def _clear(folder: DeploymentDir) -> Files:
    """Remove files that an earlier, killed start left outside the folder; return those that remain."""
    state = folder.read_state()
    return cleanup.remove_files(cleanup.files_of_plan(folder) if state is None else cleanup.own_files(state))


def _begin(
    planned: PlanningResult, folder: DeploymentDir, keep: bool, warnings: list[str], earlier: Files
) -> DeploymentState:
    """Write the plan, start its supervisor, and wait for its first state."""
    start_id = uuid.uuid4().hex
    spec, plan = planned.spec.model_dump(mode="json"), planned.plan.as_json()
    first = revisions.propose(
        folder, Revision(0, f"up {planned.spec.mode}", 0, spec, plan, outcome=revisions.DONE)
    )
    folder.write_plan(
        {
            "schema": SCHEMA,
            "start_id": start_id,
            "keep": keep,
            "warnings": warnings,
            "revision": first.number,
            "spec": spec,
            "plan": plan,
            "earlier_files": files_as_json(earlier),
        }
    )
    folder.state_file.unlink(missing_ok=True)  # not earlier, because it has the list of the earlier files
    supervisor = process_control.spawn_supervisor(folder.path, folder.log("supervisor"))
    try:
        return _first_state(folder, supervisor, start_id)
    except KeyboardInterrupt:
        interrupt(folder, supervisor, lambda _: None)
        raise


def _first_state(folder: DeploymentDir, supervisor: Identity, start_id: str) -> DeploymentState:
    """Wait until the supervisor has written its first state."""
    while True:
        state = folder.read_state()
        if state is not None and state.start_id == start_id:
            return state
        process_control.reap()
        if not is_running(supervisor):
            raise DynamoctlError(
                "the supervisor exited before it wrote its first state",
                "\n".join([*last_lines(folder.log("supervisor")), f"log: {folder.log('supervisor')}"]),
            )
        time.sleep(_POLL_S / 4)


def _set_logs_aside(folder: DeploymentDir) -> None:
    """Keep the logs of the last start as UNIT.log.1."""
    for log in folder.log("supervisor").parent.glob("*.log"):
        log.replace(files.set_aside(log))


def _wait(
    folder: DeploymentDir, state: DeploymentState, supervisor: Identity, on_state: OnState
) -> DeploymentState:
    """Wait until the deployment is ready or has failed; the supervisor enforces the timeout."""
    failure: dict[str, Any] | None = None
    while True:
        lives = is_running(supervisor)
        state = folder.read_state() or state
        on_state(state)
        failure = failure or state.error
        if state.state in ("ready", "degraded"):
            return state
        if state.state == "failed" and failure is not None:
            if not (folder.read_plan() or {}).get("keep"):
                _until_gone(supervisor)
            raise NotReadyError.from_json(failure)
        if state.state == "stopped" or (state.state == "stopping" and failure is None):
            raise NotReadyError(f"'{folder.name}' was taken down while it started")
        if not lives:
            raise NotReadyError(
                f"the supervisor of '{folder.name}' died while it was {state.state}",
                "\n".join(
                    [
                        *last_lines(folder.log("supervisor")),
                        f"log: {folder.log('supervisor')}",
                        f"clean up with: dynamoctl down -n {folder.name}",
                    ]
                ),
            )
        process_control.reap()
        time.sleep(_POLL_S)


def _until_gone(supervisor: Identity) -> None:
    deadline = time.monotonic() + _END_PATIENCE_S
    while is_running(supervisor) and time.monotonic() < deadline:
        process_control.reap()
        time.sleep(_POLL_S / 4)


def interrupt(folder: DeploymentDir, supervisor: Identity, on_state: OnState) -> None:
    """Interrupt a start: send SIGTERM to the supervisor, and wait until it has stopped everything."""
    process_control.send(supervisor, signal.SIGTERM)
    while is_running(supervisor):
        process_control.reap()
        state = folder.read_state()
        if state is not None:
            on_state(state)
        time.sleep(_POLL_S)
