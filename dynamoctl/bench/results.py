"""From what a load generator has measured to the figures of a bench. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from dynamoctl.answers.bench import Counted, Figures, PassResult, Spread

_Figures = TypeVar("_Figures", PassResult, Figures)


@dataclass(frozen=True)
class Answered:
    """One request, as the client saw it.

    Attributes:
        ttft_s: seconds to the first token.
        gaps_s: seconds between one token and the next.
        error: why it failed; empty where it did not.
    """

    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    gaps_s: tuple[float, ...] = ()
    error: str = ""

    @property
    def seconds(self) -> float:
        """To its last token."""
        return self.ttft_s + sum(self.gaps_s)


@dataclass(frozen=True)
class Measured:
    """A pass as it went: what the client saw and what the units counted.

    Attributes:
        seconds: from the first request to the last answer.
    """

    label: str
    seconds: float
    answered: tuple[Answered, ...]
    counted: Counted

    @property
    def failed(self) -> bool:
        """Whether a request failed."""
        return any(one.error for one in self.answered)


def read_vllm(body: Mapping[str, Any]) -> tuple[float, list[Answered]]:
    """A result of `vllm bench serve --save-detailed`: (seconds in all, requests).

    Raises:
        KeyError: it has no details.
    """
    columns = ("input_lens", "output_lens", "ttfts", "itls", "errors")
    rows = zip(*(body[name] for name in columns), strict=True)
    # It marks a failure by an error, but for an answer that had no text at all.
    return float(body["duration"]), [
        Answered(int(prompt), int(output or 0), float(ttft), tuple(gaps), _reason(error) or _empty(ttft))
        for prompt, output, ttft, gaps, error in rows
    ]


def read_aiperf(lines: Iterable[str]) -> tuple[float, list[Answered]]:
    """AIPerf's `profile_export.jsonl`: (seconds in all, requests).

    Raises:
        ValueError, KeyError: it is none.
    """
    records = sorted((json.loads(line) for line in lines), key=lambda one: one["metadata"]["session_num"])
    begins = [one["metadata"]["request_start_ns"] for one in records]
    ends = [one["metadata"]["request_end_ns"] for one in records]
    return (max(ends) - min(begins)) / 1e9, [_of_aiperf(one) for one in records]


def _of_aiperf(record: Mapping[str, Any]) -> Answered:
    metrics = record.get("metrics") or {}

    def value(name: str, otherwise: Any) -> Any:
        return metrics.get(name, {}).get("value", otherwise)

    ttft = value("time_to_first_token", 0.0) / 1000
    error = record.get("error") or {}
    why = " ".join(str(error[key]) for key in ("code", "type") if error.get(key)) or str(error or "")
    return Answered(
        int(value("usage_prompt_tokens", value("input_sequence_length", 0))),
        int(value("usage_completion_tokens", value("output_sequence_length", 0))),
        ttft,
        tuple(gap / 1000 for gap in value("inter_chunk_latency", ())),
        why or _empty(ttft),
    )


def summed_up(measured: Measured) -> PassResult:
    """The figures of a pass. What failed counts in none but `failed` and `errors`."""
    good = [one for one in measured.answered if not one.error]
    errors: dict[str, int] = {}
    for one in measured.answered:
        if one.error:
            errors[one.error] = errors.get(one.error, 0) + 1
    prompt, output = sum(one.prompt_tokens for one in good), sum(one.output_tokens for one in good)
    span = max(measured.seconds, 1e-9)
    return PassResult(
        measured.label,
        requests=len(measured.answered),
        failed=len(measured.answered) - len(good),
        seconds=measured.seconds,
        prompt_tokens=prompt,
        output_tokens=output,
        requests_per_s=len(good) / span,
        output_tokens_per_s=output / span,
        total_tokens_per_s=(prompt + output) / span,
        ttft_s=spread([one.ttft_s for one in good]),
        inter_token_latency_s=spread([gap for one in good for gap in one.gaps_s]),
        latency_s=spread([one.seconds for one in good]),
        counted=measured.counted,
        errors=errors,
    )


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and percentiles; None where there are no values."""
    if not values:
        return None
    return Spread(sum(values) / len(values), *(percentile(values, share) for share in (0.5, 0.95, 0.99)))


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of all is not above; between two of them, in proportion (as NumPy has it)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def times_faster(passes: Sequence[PassResult]) -> float | None:
    """How many times shorter the mean TTFT of the later passes is than that of the first; None for one."""
    later = [one.ttft_s.mean for one in passes[1:] if one.ttft_s]
    if not later or passes[0].ttft_s is None:
        return None
    return passes[0].ttft_s.mean / (sum(later) / len(later))


def rounded(figures: _Figures) -> _Figures:
    """The same with four decimals: seconds to a tenth of a millisecond."""
    return cast("_Figures", _rounded(figures))


def _reason(error: str) -> str:
    """The last line of a traceback, or the whole of what is said."""
    lines = [line for line in error.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""


def _empty(ttft: float) -> str:
    return "" if ttft > 0 else "no token came"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _rounded(getattr(value, one.name)) for one in fields(value)})
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return value
