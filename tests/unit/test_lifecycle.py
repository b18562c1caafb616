"""The table of states and events, without a process."""

from __future__ import annotations

from typing import get_args

import pytest
from dynamoctl import policies
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import InternalError
from dynamoctl.supervisor.lifecycle import (
    PROMPT,
    TABLE,
    Event,
    State,
    backoff_s,
    busy,
    follow,
    may_restart,
    restart_patience_s,
    silent_for,
)
from hypothesis import given
from hypothesis import strategies as st

STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)
PAIRS = [(state, event) for state in STATES for event in EVENTS]


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair in TABLE])
def test_what_is_in_the_table_is_followed(state: State, event: Event) -> None:
    assert follow(state, event) == TABLE[state, event]


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair not in TABLE])
def test_what_is_not_in_the_table_is_a_bug(state: State, event: Event) -> None:
    with pytest.raises(InternalError, match=f"a unit that is {state} cannot meet the event {event}"):
        follow(state, event)


def after(*events: Event) -> State:
    state: State = "pending"
    for event in events:
        state = follow(state, event)
    return state


def test_a_whole_life() -> None:
    assert after("start", "gate_passed") == "ready"
    assert after("start", "gate_passed", "stop", "ended") == "stopped"


def test_a_unit_that_dies_comes_back_through_backoff() -> None:
    assert after("start", "gate_passed", "died", "retry") == "backoff"
    assert after("start", "gate_passed", "died", "retry", "start", "gate_passed") == "ready"


def test_a_unit_that_failed_for_good_stays_failed() -> None:
    assert after("start", "died", "give_up", "stop", "ended") == "failed"


def test_every_state_can_be_reached() -> None:
    reached: set[State] = {"pending"}
    for _ in STATES:
        reached |= {then for (state, _), then in TABLE.items() if state in reached}
    assert reached == set(STATES)


def test_every_unit_can_be_stopped_whatever_it_is_doing() -> None:
    for state in STATES:
        assert follow(state, "stop") in ("stopping", "stopped", "failed")


@pytest.mark.parametrize(("restarts", "seconds"), [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (9, 60)])
def test_backoff_doubles_up_to_a_minute(restarts: int, seconds: float) -> None:
    assert backoff_s(restarts, 0.5) == pytest.approx(seconds)


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_backoff_is_a_fifth_longer_or_shorter_by_chance(restarts: int, chance: float) -> None:
    middle = backoff_s(restarts, 0.5)
    assert 0.8 * middle - 1e-9 <= backoff_s(restarts, chance) <= 1.2 * middle
    assert 4.0 <= backoff_s(restarts, chance) <= 72.0


@pytest.mark.parametrize(
    ("longest_start_s", "patience_s"), [(0, 1800), (2, 180), (45, 180), (60, 240), (440, 1760), (500, 1800)]
)
def test_a_restart_may_take_some_times_the_longest_start_and_never_longer_than_a_start(
    longest_start_s: float, patience_s: float
) -> None:
    assert restart_patience_s(longest_start_s, 180, 1800) == patience_s


def test_so_many_restarts_and_no_more() -> None:
    times = [100.0 + i for i in range(policies.RESTART_LIMIT)]
    assert may_restart(times[:-1], now=200.0)
    assert not may_restart(times, now=200.0)


def test_restarts_of_long_ago_do_not_count() -> None:
    times = [100.0] * policies.RESTART_LIMIT
    assert not may_restart(times, now=100.0 + policies.RESTART_WINDOW_S - 1)
    assert may_restart(times, now=100.0 + policies.RESTART_WINDOW_S)


@pytest.mark.parametrize(
    ("restarts", "served_s", "seconds"), [(0, 120.0, 0), (0, 119.9, 5), (0, 0.0, 5), (1, 3600.0, 10)]
)
def test_a_unit_that_had_served_for_minutes_is_restarted_at_once_the_first_time(
    restarts: int, served_s: float, seconds: float
) -> None:
    assert backoff_s(restarts, 0.5, served_s) == pytest.approx(seconds)


def test_silence_is_counted_from_look_to_look_until_there_is_an_answer() -> None:
    silent = silent_for({}, {"worker-0": False, "frontend": True}, 5.0)
    assert silent == {"worker-0": 5.0, "frontend": 0.0}
    silent = silent_for(silent, {"worker-0": False, "frontend": False}, 15.0)
    assert silent == {"worker-0": 20.0, "frontend": 15.0}
    # A unit that is being started again is not asked.
    assert silent_for(silent, {"frontend": True}, 5.0) == {"frontend": 0.0}


def test_an_engine_in_a_step_is_waited_for_longer_than_what_answers_at_once() -> None:
    assert PROMPT.silent_s < PROMPT.hung_s
    patience = busy(DeploymentSpec().hang_timeout_s)
    assert (patience.silent_s, patience.hung_s) == (60.0, 180.0)
    assert PROMPT.silent_s < patience.silent_s
    assert PROMPT.hung_s < patience.hung_s
    # A core of a busy host was seen to stand still for 20 s.
    assert PROMPT.hung_s > 2 * 20.0
