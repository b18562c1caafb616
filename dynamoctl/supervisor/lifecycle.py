"""The states of a unit, what may follow what, and how long things may take. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dynamoctl.errors import InternalError
from dynamoctl.state import UnitStateName

State = UnitStateName
Event = Literal["start", "gate_passed", "died", "retry", "give_up", "stop", "ended"]

TABLE: dict[tuple[State, Event], State] = {
    ("pending", "start"): "starting",
    ("pending", "stop"): "stopped",
    ("starting", "gate_passed"): "ready",
    ("starting", "died"): "failed",
    ("starting", "stop"): "stopping",
    ("ready", "died"): "failed",
    ("ready", "stop"): "stopping",
    ("failed", "retry"): "backoff",
    ("failed", "give_up"): "failed",
    # It stays failed: `status` shows afterwards who it was.
    ("failed", "stop"): "failed",
    ("failed", "ended"): "failed",
    ("backoff", "start"): "starting",
    ("backoff", "stop"): "stopping",
    ("stopping", "died"): "stopping",
    ("stopping", "stop"): "stopping",
    ("stopping", "ended"): "stopped",
    ("stopped", "stop"): "stopped",
}


def follow(state: State, event: Event) -> State:
    """The state after an event.

    Raises:
        InternalError: the event cannot happen in this state: a bug of ours.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise InternalError(f"a unit that is {state} cannot meet the event {event}") from None


# Restarts: the first after 5 s, doubling to 60 s, each 20 % longer or shorter by chance so that units
# that fell together do not get up together; three within ten minutes, then no more.
RESTART_LIMIT = 3
RESTART_WINDOW_S = 600.0


def backoff_s(restarts: int, chance: float) -> float:
    """Seconds to wait before the restart after `restarts` earlier ones; `chance` is in [0, 1)."""
    return min(5.0 * 2.0**restarts, 60.0) * (0.8 + 0.4 * chance)


def may_restart(times: list[float], now: float, tries: int = 0) -> bool:
    """Whether another restart is allowed, given when the earlier ones were (seconds, any clock).

    Args:
        tries: restarts since it was ready the last time. Where each takes long, few are in the window.
    """
    return tries < RESTART_LIMIT and sum(1 for time in times if now - time < RESTART_WINDOW_S) < RESTART_LIMIT


# A frozen unit goes on where it stood when it is thawed. One that has not answered for so long is hung.
HUNG_S = 180.0


def silent_since(before: Mapping[str, float], answered: Mapping[str, bool], now: float) -> dict[str, float]:
    """Since when each unit that does not answer has not, given how it was at the last look."""
    return {name: before.get(name, now) for name, did in answered.items() if not did}


def hung(silent: Mapping[str, float], now: float) -> list[str]:
    """The units that have been silent for too long."""
    return [name for name, since in silent.items() if now - since > HUNG_S]


# How often a gate asks. Each attempt costs some milliseconds of a CPU that the engine wants.
GATE_INTERVAL_S = 0.4
# How often what is up is looked at.
WATCH_INTERVAL_S = 5.0
# Dynamo removes a registration that nobody has touched for 10 s, and its process takes the supervisor's touch
# back every 3.3 s: for half of this, on average, it would not last where both are starved.
KEEP_INTERVAL_S = 1.0
# How long a worker may take from SIGTERM to its end, besides the time that requests have to drain.
# Measured: 16 s for a worker with LMCache on an H100, idle, with its own 5 s of grace.
GRACE_READY_S = 25.0
