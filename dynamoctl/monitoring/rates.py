"""From counters at two moments to rates and quantiles. Pure.

A unit's counters begin at 0 when its process does. So each unit is compared with itself, and one that was
started anew meanwhile has counted from 0 since.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Upper bound -> how many values were not above it, as in a Prometheus histogram.
Buckets = Mapping[float, float]


@dataclass(frozen=True)
class UnitCounts:
    """What one unit has counted since its process began.

    Attributes:
        started_at: when that was, seconds since the epoch; another process has another one.
        counters: name -> count.
        histograms: name -> its buckets.
    """

    started_at: float
    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Buckets] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """What all units had counted at one moment: `at` on a clock that does not jump, seconds."""

    at: float
    units: Mapping[str, UnitCounts]


@dataclass(frozen=True)
class Change:
    """What was counted between two moments.

    Attributes:
        seconds: how long that was.
        counters: name -> how many came; a name is missing where no unit counts such.
        histograms: name -> the buckets of the values that came.
    """

    seconds: float = 0.0
    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Buckets] = field(default_factory=dict)

    def per_second(self, name: str) -> float | None:
        """How many came in a second; None where nobody counts such."""
        if name not in self.counters or self.seconds <= 0:
            return None
        return self.counters[name] / self.seconds

    def ratio(self, part: str, whole: str) -> float | None:
        """A part of the whole, as hits of what was asked for; None where nothing was asked for."""
        among = self.counters.get(whole, 0.0)
        return self.counters.get(part, 0.0) / among if among > 0 else None

    def quantile(self, name: str, share: float) -> float | None:
        """See `quantile`; None where there is no such histogram."""
        return quantile(self.histograms.get(name, {}), share)


def sample(at: float, started: Mapping[str, float], answer: Mapping[str, Any]) -> Sample:
    """What a snapshot says (`observe.Snapshot`, as it comes over the socket).

    Args:
        started: unit -> when its process was started.
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
    """What came between two samples. What a unit has counted that was not seen in both is left out: nobody
    knows when that was.
    """
    counters: dict[str, float] = {}
    histograms: dict[str, dict[float, float]] = {}
    for unit, now in new.units.items():
        before = old.units.get(unit)
        if before is None:
            continue
        if before.started_at != now.started_at:
            nothing: dict[str, Buckets] = {name: {} for name in now.histograms}
            before = UnitCounts(now.started_at, dict.fromkeys(now.counters, 0.0), nothing)
        for name, count in now.counters.items():
            if name in before.counters:
                counters[name] = counters.get(name, 0.0) + _increase(before.counters[name], count)
        for name, buckets in now.histograms.items():
            if name in before.histograms:
                _add(histograms.setdefault(name, {}), _came(before.histograms[name], buckets))
    return Change(new.at - old.at, counters, histograms)


def together(changes: Iterable[Change]) -> Change:
    """Changes one after the other as one."""
    seconds = 0.0
    counters: dict[str, float] = {}
    histograms: dict[str, dict[float, float]] = {}
    for one in changes:
        seconds += one.seconds
        for name, count in one.counters.items():
            counters[name] = counters.get(name, 0.0) + count
        for name, buckets in one.histograms.items():
            _add(histograms.setdefault(name, {}), buckets)
    return Change(seconds, counters, histograms)


def quantile(buckets: Buckets, share: float) -> float | None:
    """The value that this share of all values is not above; None where there are no values, or no bounds.

    As Prometheus has it: values are taken as spread evenly in their bucket, and what is above the last bound
    counts as that bound.
    """
    bounds = sorted(buckets)
    if not bounds or math.isinf(bounds[0]) or not buckets[bounds[-1]] > 0:
        return None
    wanted = share * buckets[bounds[-1]]
    low = below = 0.0
    for bound in bounds:
        # The units' pages are not made in one moment: a bucket may be behind the one below it.
        count = max(below, buckets[bound])
        if count >= wanted and count > below:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / (count - below)
        if not math.isinf(bound):
            low = bound
        below = count
    return low


def _increase(old: float, new: float) -> float:
    """A counter that has fallen has begun anew."""
    return new - old if new >= old else new


def _came(old: Buckets, new: Buckets) -> dict[float, float]:
    if any(count < old.get(bound, 0.0) for bound, count in new.items()):
        old = {}
    return {bound: count - old.get(bound, 0.0) for bound, count in new.items()}


def _add(to: dict[float, float], buckets: Buckets) -> None:
    for bound, count in buckets.items():
        to[bound] = to.get(bound, 0.0) + count
