"""What is running. Fast: it reads one file and asks the supervisor, and imports little."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dynamoctl.answers.envelope import Error
from dynamoctl.answers.status import (
    CacheStatus,
    ChangeStatus,
    GpuStatus,
    LoadStatus,
    RemoteWorker,
    StatusAnswer,
    TransferStatus,
    UnitStatus,
)
from dynamoctl.host.processes import is_running, members
from dynamoctl.state import ChangeState, DeploymentDir, DeploymentState, UnitState, deployments

# The supervisor asks every unit in turn for its metrics.
_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Look:
    """A deployment at one moment.

    Attributes:
        status: what `status` answers.
        state: what its supervisor wrote last; None if it was never started.
        answer: what its supervisor answered (`observe.Snapshot`); None where it was not asked or did not.
    """

    status: StatusAnswer
    state: DeploymentState | None = None
    answer: dict[str, Any] | None = None


def status(name: str) -> StatusAnswer:
    """What `status` answers."""
    return look(name).status


def look(name: str) -> Look:
    """See how a deployment is now."""
    folder = DeploymentDir(name)
    state = folder.read_state()
    if state is None:
        return Look(_nothing(name))
    lives = state.supervisor_lives
    visible_state = state.state
    warnings = []
    if not lives and state.state not in ("stopped", "failed"):
        alive = members(f"{state.start_id}/")
        visible_state = "unsupervised" if alive else "stopped"
        if alive:
            warnings.append(
                f"its supervisor is gone, {len(alive)} of its processes live: dynamoctl down -n {name}"
            )
        if state.change is not None:
            warnings.append(f"its supervisor ended during {state.change.what}: {state.change.step}")
    seen = None
    if lives and state.state in ("ready", "degraded", "failed"):
        seen = ask(folder)
        state = folder.read_state() or state  # what does not answer was waited for
        visible_state = state.state
    warnings = [*state.warnings, *state.problems, *warnings]
    if lives and seen is None and state.state in ("ready", "degraded"):
        warnings.append("its supervisor does not answer: what is shown is what it last wrote")
    return Look(_answer(state, visible_state, warnings, seen), state, seen)


def not_running(name: str) -> str:
    """A message that a deployment is not running; for an unknown name it lists the known ones."""
    known = deployments()
    hint = f" (known here: {', '.join(known)})" if known and name not in known else ""
    return f"'{name}' is not running{hint}"


def _nothing(name: str) -> StatusAnswer:
    return StatusAnswer(
        name=name,
        mode=None,
        state="stopped",
        model=None,
        endpoint=None,
        units=(),
        cache=None,
        transfers=None,
        load=None,
        gpus=(),
        remote=(),
        error=None,
        warnings=(),
    )


def _answer(
    state: DeploymentState, visible_state: str, warnings: list[str], seen: dict[str, Any] | None
) -> StatusAnswer:
    now = time.time()
    seen = seen or {}
    units = tuple(_unit(unit, now, seen) for unit in state.units)
    # A unit may have died a moment ago, and its supervisor not have written it yet.
    needed = (unit for unit, known in zip(units, state.units, strict=True) if known.counts)
    if visible_state == "ready" and any(unit.state != "ready" for unit in needed):
        visible_state = "degraded"
    cache, transfers, remote = seen.get("cache"), seen.get("transfers"), seen.get("remote")
    return StatusAnswer(
        name=state.name,
        mode=state.mode,
        state=visible_state,
        model=state.model,
        endpoint=state.endpoint or None,
        units=units,
        cache=None if cache is None else CacheStatus(**cache),
        transfers=None if transfers is None else TransferStatus(**transfers),
        load=_load(seen) if "counters" in seen else None,
        gpus=_gpus(seen.get("memory", {})),
        remote=None if remote is None else tuple(RemoteWorker(**worker) for worker in remote),
        error=None if state.error is None else Error(**state.error),
        warnings=tuple(warnings),
        revision=state.revision,
        change=_change(state.change, now) if state.supervisor_lives else None,
    )


def _change(change: ChangeState | None, now: float) -> ChangeStatus | None:
    if change is None:
        return None
    seconds = round(max(0.0, now - change.began_at), 1)
    return ChangeStatus(change.revision, change.what, change.step, seconds)


def _unit(unit: UnitState, now: float, seen: dict[str, Any]) -> UnitStatus:
    alive = unit.identity is not None and is_running(unit.identity)
    memory = seen.get("memory", {})
    gauges = seen.get("gauges", {}).get(unit.name, {})
    return UnitStatus(
        name=unit.name,
        role=unit.role,
        state=unit.state if alive or unit.state != "ready" else "failed",
        phase=unit.phase,
        pid=unit.identity.pid if unit.identity and alive else None,
        gpus=tuple(unit.gpus),
        memory_mib=memory.get("units", {}).get(unit.name) if alive else None,
        gpu_memory_mib=memory.get("gpu_units", {}).get(unit.name) if alive else None,
        health=seen.get("health", {}).get(unit.name) if alive else None,
        restarts=unit.restarts,
        uptime_s=round(max(0.0, now - unit.started_at), 1) if alive else None,
        requests_running=_whole(gauges.get("requests_running")),
        requests_waiting=_whole(gauges.get("requests_waiting")),
        kv_cache_usage=_rounded(gauges.get("kv_cache_usage")),
        patches=tuple(unit.patches),
        standby=unit.standby or None,
        service=unit.service or None,
    )


def _gpus(memory: dict[str, Any]) -> tuple[GpuStatus, ...]:
    utilization = memory.get("utilization", {})
    return tuple(
        GpuStatus(gpu, memory_used_mib=used, memory_total_mib=total, utilization=utilization.get(gpu))
        for gpu, (used, total) in sorted(memory.get("gpus", {}).items(), key=_in_order)
    )


def _load(seen: dict[str, Any]) -> LoadStatus:
    """What its workers do now, and what its frontend has counted; None if no unit reports it."""
    gauges, counters = seen.get("gauges", {}).values(), seen.get("counters", {}).values()
    return LoadStatus(
        requests_running=_sum(gauges, "requests_running"),
        requests_waiting=_sum(gauges, "requests_waiting"),
        requests_total=_sum(counters, "requests"),
        failed_requests_total=_sum(counters, "failed_requests"),
        prompt_tokens_total=_sum(counters, "prompt_tokens"),
        generation_tokens_total=_sum(counters, "generation_tokens"),
        moved_requests_total=_sum(counters, "migrations"),
        failed_requests_by_type=seen.get("failed_by_type"),
    )


def _sum(units: Iterable[dict[str, float]], name: str) -> int | None:
    said = [one[name] for one in units if name in one]
    return int(sum(said)) if said else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def _in_order(entry: tuple[str, Any]) -> tuple[int, str]:
    """GPU 2 before GPU 10, UUIDs last."""
    return (int(entry[0]) if entry[0].isdigit() else sys.maxsize, entry[0])


def ask(
    folder: DeploymentDir, question: str = "snapshot", patience_s: float | None = _PATIENCE_S
) -> dict[str, Any] | None:
    """What the supervisor answers, by default a fresh snapshot; None where it does not answer.

    Args:
        question: `snapshot`, or a request as JSON on one line (`supervisor.control`).
        patience_s: for how long it may say nothing, seconds; None for as long as it lives.
    """
    try:
        descriptor = os.open(folder.path, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(patience_s)
            # By way of the open folder: a socket's path may have no more than 107 bytes.
            line.connect(f"/proc/self/fd/{descriptor}/{folder.socket.name}")
            line.sendall(question.encode() + b"\n")
            with line.makefile("rb") as answer:
                body = json.loads(answer.readline() or b"null")
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return body if isinstance(body, dict) else None
