"""Rates and quantiles from two samples of counters. Pure.

A unit's counters start at 0 when its process starts. So the samples are compared unit by unit, and a unit
that was restarted in between has counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Upper bound -> number of values at or below it, as in a Prometheus histogram.
Buckets = Mapping[float, float]


@dataclass(frozen=True)
class UnitCounts:
    """The counts of one unit since its process started.

    Attributes:
        started_at: start time, in seconds since the epoch; it differs between processes.
        counters: name -> count.
        histograms: name -> buckets.
    """

    started_at: float
    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Buckets] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """The counts of all units at one moment.

    Attributes:
        at: the moment, in seconds of the monotonic clock.
        units: unit -> its counts.
    """

    at: float
    units: Mapping[str, UnitCounts]


@dataclass(frozen=True)
class Change:
    """The change of all counts between two samples.

    Attributes:
        seconds: time between the samples.
        counters: name -> increase; a name is missing if no unit has such a counter.
        histograms: name -> buckets of the new values.
    """

    seconds: float = 0.0
    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Buckets] = field(default_factory=dict)

    def per_second(self, name: str) -> float | None:
        """Increase of a counter per second; None if no unit has such a counter."""
        if name not in self.counters or self.seconds <= 0:
            return None
        return self.counters[name] / self.seconds

    def ratio(self, part: str, whole: str) -> float | None:
        """Increase of one counter divided by that of another; None if the other did not increase."""
        total = self.counters.get(whole, 0.0)
        return self.counters.get(part, 0.0) / total if total > 0 else None

    def quantile(self, name: str, share: float) -> float | None:
        """`quantile` of a histogram; None if there is no such histogram."""
        return quantile(self.histograms.get(name, {}), share)


def sample(at: float, started: Mapping[str, float], answer: Mapping[str, Any]) -> Sample:
    """A sample from a snapshot (`observe.Snapshot` as JSON, from the supervisor's socket).

    Args:
        at: when the snapshot was taken, in seconds of the monotonic clock.
        started: unit -> start time of its process, in seconds since the epoch.
        answer: the snapshot.
    """
    counters, histograms = answer.get("counters", {}), answer.get("histograms", {})
    return Sample(
        at,
        {
            unit: UnitCounts(
                began,
                counters.get(unit, {}),
                {
                    name: {float(bound): count for bound, count in buckets.items()}
                    for name, buckets in histograms.get(unit, {}).items()
                },
            )
            for unit, began in started.items()
            if unit in counters or unit in histograms
        },
    )


def change(old: Sample, new: Sample) -> Change:
    """The change between two samples. A unit that is missing in one of them is left out, because it is not
    known when it counted.
    """
    counters: dict[str, float] = {}
    histograms: dict[str, dict[float, float]] = {}
    for unit, now in new.units.items():
        before = old.units.get(unit)
        if before is None:
            continue
        if before.started_at != now.started_at:
            empty: dict[str, Buckets] = {name: {} for name in now.histograms}
            before = UnitCounts(now.started_at, dict.fromkeys(now.counters, 0.0), empty)
        for name, count in now.counters.items():
            if name in before.counters:
                counters[name] = counters.get(name, 0.0) + _increase(before.counters[name], count)
        for name, buckets in now.histograms.items():
            if name in before.histograms:
                _add(histograms.setdefault(name, {}), _came(before.histograms[name], buckets))
    return Change(new.at - old.at, counters, histograms)


def together(changes: Iterable[Change]) -> Change:
    """Consecutive changes added up."""
    seconds = 0.0
    counters: dict[str, float] = {}
    histograms: dict[str, dict[float, float]] = {}
    for part in changes:
        seconds += part.seconds
        for name, count in part.counters.items():
            counters[name] = counters.get(name, 0.0) + count
        for name, buckets in part.histograms.items():
            _add(histograms.setdefault(name, {}), buckets)
    return Change(seconds, counters, histograms)


def quantile(buckets: Buckets, share: float) -> float | None:
    """The quantile of a histogram, computed as Prometheus's `histogram_quantile` does.

    Values count as evenly spread in their bucket, and values above the last finite bound count as that bound.

    Args:
        share: the quantile, 0 to 1.

    Returns:
        None if there are no values, or no finite bounds.
    """
    bounds = sorted(buckets)
    if not bounds or math.isinf(bounds[0]) or not buckets[bounds[-1]] > 0:
        return None
    wanted = share * buckets[bounds[-1]]
    lower = below = 0.0
    for bound in bounds:
        # The units' metrics are not read at one moment, so a bucket may lag behind the one below it.
        count = max(below, buckets[bound])
        if count >= wanted and count > below:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (wanted - below) / (count - below)
        if not math.isinf(bound):
            lower = bound
        below = count
    return lower


def _increase(old: float, new: float) -> float:
    """The increase of a counter; a counter that fell was reset to 0."""
    return new - old if new >= old else new


def _came(old: Buckets, new: Buckets) -> dict[float, float]:
    if any(count < old.get(bound, 0.0) for bound, count in new.items()):
        old = {}
    return {bound: count - old.get(bound, 0.0) for bound, count in new.items()}


def _add(to: dict[float, float], buckets: Buckets) -> None:
    for bound, count in buckets.items():
        to[bound] = to.get(bound, 0.0) + count
