"""Comparison of variants: figures, ratios, and the best variant. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from dynamoctl.answers.bench import Figures, PassCounts, PassResult, Ratios
from dynamoctl.bench.results import Measurement

# A smaller ratio of two times is noise: of such variants, the one that takes less memory is better.
_NOISE = 1.05


def pooled(runs: Sequence[Sequence[Measurement]]) -> tuple[Measurement, ...]:
    """The passes of several runs merged by position, so that every request has the same weight."""
    return tuple(_together(repeats) for repeats in zip(*runs, strict=True))


def figures(passes: Sequence[PassResult]) -> Figures:
    """The figures of a variant."""
    later = [result.ttft_s.mean for result in passes[1:] if result.ttft_s]
    gaps = [result.inter_token_latency_s.p99 for result in passes if result.inter_token_latency_s]
    tokens = sum(result.prompt_tokens + result.output_tokens for result in passes)
    return Figures(
        passes[0].ttft_s.mean if passes[0].ttft_s else None,
        sum(later) / len(later) if later else None,
        max(gaps, default=None),
        tokens / max(sum(result.seconds for result in passes), 1e-9),
    )


def ratios(of: Figures, to: Figures) -> Ratios:
    """Each figure of one variant divided by that of another."""
    others = asdict(to)
    return Ratios(
        **{
            name: round(value / others[name], 3) if value is not None and others[name] else None
            for name, value in asdict(of).items()
        }
    )


def best(candidates: Sequence[tuple[str, Figures, float]]) -> str:
    """The name of the variant with the shortest mean time to first token.

    The time is that of the later passes if there are any. Variants within 5 % of the shortest time count as
    equal; of these, the one with the least memory wins, then the fastest.

    Args:
        candidates: (name, figures, memory of its cache in GiB).

    Raises:
        ValueError: no variant has a time to first token.
    """
    timed = [
        (gib, time, name)
        for name, figures_of_it, gib in candidates
        if (time := _ttft(figures_of_it)) is not None
    ]
    shortest = min(time for _, time, _ in timed)
    equal = (candidate for candidate in timed if candidate[1] <= shortest * _NOISE)
    return min(equal, key=lambda candidate: candidate[:2])[2]


def _ttft(of: Figures) -> float | None:
    return of.ttft_first_s if of.ttft_later_s is None else of.ttft_later_s


def _together(repeats: Sequence[Measurement]) -> Measurement:
    """One pass that was measured several times, as one measurement."""
    counts = [measured.counted for measured in repeats]

    def total(name: str) -> Any:
        values = [getattr(counted, name) for counted in counts]
        return None if None in values else sum(values)

    sums = {name: total(name) for name in PassCounts.__dataclass_fields__ if not name.endswith("_mib")}
    return Measurement(
        repeats[0].label,
        sum(measured.seconds for measured in repeats),
        tuple(request for measured in repeats for request in measured.answered),
        replace(counts[-1], **sums),
    )
