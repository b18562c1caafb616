"""The states of a unit, what may follow what, and how long things may take. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dynamoctl.errors import InternalError
from dynamoctl.state import UnitStateName

State = UnitStateName
Event = Literal[
    "start", "gate_passed", "fell_silent", "answered", "died", "retry", "give_up", "stop", "ended"
]

TABLE: dict[tuple[State, Event], State] = {
    ("pending", "start"): "starting",
    ("pending", "stop"): "stopped",
    ("starting", "gate_passed"): "ready",
    ("starting", "died"): "failed",
    ("starting", "stop"): "stopping",
    ("ready", "died"): "failed",
    ("ready", "stop"): "stopping",
    # It lives and does not answer: nobody is sent to it until it does.
    ("ready", "fell_silent"): "unresponsive",
    ("unresponsive", "answered"): "ready",
    ("unresponsive", "died"): "failed",
    ("unresponsive", "stop"): "stopping",
    ("failed", "retry"): "backoff",
    ("failed", "give_up"): "failed",
    # It stays failed: `status` shows afterwards who it was.
    ("failed", "stop"): "failed",
    ("failed", "ended"): "failed",
    ("backoff", "start"): "starting",
    ("backoff", "give_up"): "failed",
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


# Restarts: at once where the unit had served for minutes, else after 5 s, doubling to 60 s, each 20 % longer
# or shorter by chance so that units that fell together do not get up together; three within ten minutes, then
# no more.
RESTART_LIMIT = 3
RESTART_WINDOW_S = 600.0
_SERVED_FOR_MINUTES_S = 120.0


def backoff_s(restarts: int, chance: float, served_s: float = 0.0) -> float:
    """Seconds to wait before the next restart.

    Args:
        restarts: how many there were in this deployment.
        chance: in [0, 1).
        served_s: for how long it had been ready when it ended.
    """
    if not restarts and served_s >= _SERVED_FOR_MINUTES_S:
        return 0.0
    return min(5.0 * 2.0**restarts, 60.0) * (0.8 + 0.4 * chance)


def may_restart(times: list[float], now: float, tries: int = 0) -> bool:
    """Whether another restart is allowed, given when the earlier ones were (seconds, any clock).

    Args:
        tries: restarts since it was ready the last time. Where each takes long, few are in the window.
    """
    return tries < RESTART_LIMIT and sum(1 for time in times if now - time < RESTART_WINDOW_S) < RESTART_LIMIT


@dataclass(frozen=True)
class Patience:
    """For how long a unit that was ready may give no sign of life, in seconds.

    Attributes:
        silent_s: then it is `unresponsive`, and a worker is out of discovery.
        hung_s: then it is restarted.
    """

    silent_s: float
    hung_s: float


# What answers in milliseconds as long as it runs: a status server, a frontend, an engine without requests. On
# a busy host a core was seen to stand still for 20 s: nothing is restarted for that.
PROMPT = Patience(10.0, 45.0)


def busy(hang_timeout_s: float) -> Patience:
    """The patience with an engine in the middle of a step, which may compute, or compile a kernel for the
    first time. A long prompt is many steps.
    """
    return Patience(hang_timeout_s / 3, hang_timeout_s)


def silent_for(
    before: Mapping[str, float], answered: Mapping[str, bool], passed_s: float
) -> dict[str, float]:
    """For how long each unit has given no sign of life, in seconds, given how it was at the last look.

    Args:
        answered: unit -> whether it has since then; a unit that is missing was not looked at, and starts
            anew.
        passed_s: seconds since then.
    """
    return {name: 0.0 if did else before.get(name, 0.0) + passed_s for name, did in answered.items()}


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
