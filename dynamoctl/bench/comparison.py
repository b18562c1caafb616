"""Variants side by side: ratios, and which is the best. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from dynamoctl.answers.bench import Counted, Figures, PassResult, Ratios
from dynamoctl.bench.results import Measured

# Differences below this are noise: of such variants the one that takes less memory is better.
_NOISE = 1.05


def pooled(runs: Sequence[Sequence[Measured]]) -> tuple[Measured, ...]:
    """The same passes, measured more than once, as one: every request counts alike."""
    return tuple(_together(same) for same in zip(*runs, strict=True))


def figures(passes: Sequence[PassResult]) -> Figures:
    """A variant's figures."""
    later = [one.ttft_s.mean for one in passes[1:] if one.ttft_s]
    gaps = [one.inter_token_latency_s.p99 for one in passes if one.inter_token_latency_s]
    tokens = sum(one.prompt_tokens + one.output_tokens for one in passes)
    return Figures(
        passes[0].ttft_s.mean if passes[0].ttft_s else None,
        sum(later) / len(later) if later else None,
        max(gaps, default=None),
        tokens / max(sum(one.seconds for one in passes), 1e-9),
    )


def ratios(of: Figures, to: Figures) -> Ratios:
    """Each figure divided by that of another variant."""
    others = asdict(to)
    return Ratios(
        **{
            name: round(value / others[name], 3) if value is not None and others[name] else None
            for name, value in asdict(of).items()
        }
    )


def best(candidates: Sequence[tuple[str, Figures, float]]) -> str:
    """The variant with the shortest mean time to the first token, of the later passes where there are any.

    Args:
        candidates: name, figures, and the memory that its cache takes, GiB. What is within 5 % of the best is
            as good; of those it is the one with the least memory, then the first.

    Raises:
        ValueError: there is none with a time to the first token.
    """
    timed = [
        (name, time, gib)
        for name, one, gib in candidates
        if (time := one.ttft_first_s if one.ttft_later_s is None else one.ttft_later_s) is not None
    ]
    shortest = min(time for _, time, _ in timed)
    return min((one for one in timed if one[1] <= shortest * _NOISE), key=lambda one: (one[2], one[1]))[0]


def _together(same: Sequence[Measured]) -> Measured:
    counted = [one.counted for one in same]

    def total(name: str) -> Any:
        values = [getattr(one, name) for one in counted]
        return None if None in values else sum(values)

    sums = {name: total(name) for name in Counted.__dataclass_fields__ if not name.endswith("_mib")}
    return Measured(
        same[0].label,
        sum(one.seconds for one in same),
        tuple(request for one in same for request in one.answered),
        replace(counted[-1], **sums),
    )
