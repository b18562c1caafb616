"""From two samples of counters to rates and quantiles."""

from __future__ import annotations

import json
import math

import pytest
from dynamoctl.monitoring.rates import Change, Sample, UnitCounts, change, quantile, sample, together
from hypothesis import given
from hypothesis import strategies as st

INF = math.inf


def at(when: float, **units: UnitCounts) -> Sample:
    return Sample(when, units)


def test_what_came_is_summed_over_the_units_and_divided_by_the_time() -> None:
    old = at(10, a=UnitCounts(1, {"tokens": 100}), b=UnitCounts(2, {"tokens": 5}))
    new = at(12, a=UnitCounts(1, {"tokens": 130}), b=UnitCounts(2, {"tokens": 15}))
    came = change(old, new)
    assert (came.seconds, came.counters) == (2, {"tokens": 40})
    assert came.per_second("tokens") == 20
    assert came.per_second("requests") is None


def test_a_unit_that_was_started_anew_has_counted_from_0() -> None:
    """More than before, too: it is another process."""
    old = at(10, a=UnitCounts(1, {"tokens": 100}, {"ttft": {1.0: 7, INF: 9}}))
    new = at(12, a=UnitCounts(11, {"tokens": 130}, {"ttft": {1.0: 8, INF: 10}}))
    came = change(old, new)
    assert came.counters == {"tokens": 130}
    assert came.histograms == {"ttft": {1.0: 8, INF: 10}}


def test_a_counter_that_has_fallen_has_begun_anew() -> None:
    """As an engine's, whose process is not the unit's first."""
    old = at(10, a=UnitCounts(1, {"tokens": 100}, {"ttft": {1.0: 7, INF: 9}}))
    new = at(12, a=UnitCounts(1, {"tokens": 3}, {"ttft": {1.0: 0, INF: 1}}))
    came = change(old, new)
    assert came.counters == {"tokens": 3}
    assert came.histograms == {"ttft": {1.0: 0, INF: 1}}


def test_what_was_not_seen_in_both_is_left_out() -> None:
    old = at(10, a=UnitCounts(1, {"tokens": 100}), gone=UnitCounts(1, {"tokens": 1}))
    new = at(12, a=UnitCounts(1, {"tokens": 101, "hits": 50}, {"ttft": {INF: 3}}), b=UnitCounts(1, {"x": 9}))
    came = change(old, new)
    assert came.counters == {"tokens": 1}
    assert came.histograms == {}


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_without_time_there_is_no_rate(seconds: float) -> None:
    assert Change(seconds, {"tokens": 5}).per_second("tokens") is None


@pytest.mark.parametrize(
    ("counters", "ratio"),
    [
        ({"hits": 30.0, "asked": 120.0}, 0.25),
        ({"asked": 120.0}, 0.0),
        ({"hits": 0.0, "asked": 0.0}, None),
        ({}, None),
        ({"hits": 1.0, "asked": math.nan}, None),
    ],
)
def test_a_ratio_is_none_where_nothing_was_asked_for(counters: dict[str, float], ratio: float | None) -> None:
    assert Change(1, counters).ratio("hits", "asked") == ratio


def test_changes_one_after_the_other() -> None:
    both = together(
        [
            Change(2, {"tokens": 10}, {"ttft": {1.0: 1, INF: 2}}),
            Change(3, {"tokens": 5, "hits": 1}, {"ttft": {1.0: 4, INF: 4}}),
        ]
    )
    assert both == Change(5, {"tokens": 15, "hits": 1}, {"ttft": {1.0: 5, INF: 6}})
    assert together([]) == Change()


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        pytest.param({}, 0.5, None, id="no buckets"),
        pytest.param({1.0: 0, INF: 0}, 0.5, None, id="no values"),
        pytest.param({1.0: math.nan, INF: math.nan}, 0.5, None, id="not a number"),
        pytest.param({0.0: 0, 1.0: 0, 2.0: 10, INF: 10}, 0.5, 1.5, id="the middle of a bucket"),
        pytest.param({1.0: 10, INF: 10}, 0.5, 0.5, id="the first bucket begins at 0"),
        pytest.param({1.0: 50, 2.0: 90, 4.0: 100, INF: 100}, 0.95, 3.0, id="the third bucket"),
        pytest.param({1.0: 50, 2.0: 50, 4.0: 100, INF: 100}, 0.5, 1.0, id="the end of a bucket"),
        pytest.param({1.0: 1, 2.0: 2, INF: 100}, 0.95, 2.0, id="above the last bound"),
        pytest.param({INF: 100}, 0.95, None, id="no bound at all"),
        pytest.param({1.0: 10, 2.0: 8, INF: 10}, 0.95, 0.95, id="a bucket that is behind"),
        pytest.param({1.0: 1, INF: 1}, 1.0, 1.0, id="the largest"),
    ],
)
def test_a_quantile(buckets: dict[float, float], share: float, value: float | None) -> None:
    assert quantile(buckets, share) == (None if value is None else pytest.approx(value))


BOUNDS = (0.0, 0.1, 0.5, 2.0, 10.0, INF)


@given(st.lists(st.floats(0.001, 50), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_value_that_it_stands_for(
    values: list[float], share: float
) -> None:
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in BOUNDS}
    true = sorted(values)[max(0, math.ceil(round(share * len(values), 9)) - 1)]
    found = quantile(buckets, share)
    assert found is not None
    above = next(bound for bound in BOUNDS if true <= bound)
    below = max(bound for bound in BOUNDS if bound < true)
    assert below - 1e-9 <= found <= (10.0 if math.isinf(above) else above) + 1e-9


def test_a_sample_from_what_a_supervisor_answers() -> None:
    answer = {
        "counters": {"frontend": {"requests": 3.0}, "stranger": {"requests": 9.0}},
        "histograms": {"frontend": {"ttft": {"0.1": 1.0, "+Inf": 3.0}}},
    }
    made = sample(7.0, {"frontend": 1.0, "worker-0": 2.0}, json.loads(json.dumps(answer)))
    assert made == Sample(
        7.0, {"frontend": UnitCounts(1.0, {"requests": 3.0}, {"ttft": {0.1: 1.0, INF: 3.0}})}
    )
