"""The states of a unit, what may follow what, and what `policies` means for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dynamoctl import policies
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


def backoff_s(restarts: int, chance: float, served_s: float = 0.0) -> float:
    """Seconds to wait before the next restart; none for the first of a unit that had served for minutes.

    Args:
        restarts: how many there were in this deployment.
        chance: in [0, 1).
        served_s: for how long it had been ready when it ended.
    """
    if not restarts and served_s >= policies.SERVED_WELL_S:
        return 0.0
    pause_s = min(policies.BACKOFF_FIRST_S * 2.0**restarts, policies.BACKOFF_LONGEST_S)
    return pause_s * (1 + policies.BACKOFF_JITTER * (2 * chance - 1))


def restart_patience_s(longest_start_s: float, hang_timeout_s: float, start_timeout_s: float) -> float:
    """For how long a restart may take before it counts as one that hangs.

    Args:
        longest_start_s: the longest start of the unit so far; 0 if it was never ready.
    """
    if not longest_start_s:
        return start_timeout_s
    return min(max(policies.RESTART_HUNG_STARTS * longest_start_s, hang_timeout_s), start_timeout_s)


def may_restart(times: list[float], now: float, tries: int = 0) -> bool:
    """Whether another restart is allowed, given when the earlier ones were (seconds, any clock).

    Args:
        tries: restarts since it was ready the last time. Where each takes long, few are in the window.
    """
    recent = sum(1 for time in times if now - time < policies.RESTART_WINDOW_S)
    return tries < policies.RESTART_LIMIT and recent < policies.RESTART_LIMIT


@dataclass(frozen=True)
class Patience:
    """For how long a unit that was ready may give no sign of life, in seconds.

    Attributes:
        silent_s: then it is `unresponsive`, and a worker is out of discovery.
        hung_s: then it is restarted.
    """

    silent_s: float
    hung_s: float


# What answers in milliseconds as long as it runs: a status server, a frontend, an engine without requests.
PROMPT = Patience(policies.PROMPT_SILENT_S, policies.PROMPT_HUNG_S)


def busy(hang_timeout_s: float) -> Patience:
    """The patience with an engine in the middle of a step, which may compute, or compile a kernel for the
    first time. A long prompt is many steps.
    """
    return Patience(hang_timeout_s * policies.BUSY_SILENT_SHARE, hang_timeout_s)


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
# How often it is asked whether new shared memory was made, while units start or end: some microseconds each.
GLANCE_S = 0.05
# How often what is up is looked at.
WATCH_INTERVAL_S = 5.0
# Dynamo removes a registration that nobody has touched for 10 s, and its process takes the supervisor's touch
# back every 3.3 s: for half of this, on average, it would not last where both are starved.
KEEP_INTERVAL_S = 1.0
