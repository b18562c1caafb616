"""The figures of a benchmark, computed from a load generator's measurements. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from dynamoctl.answers.bench import Figures, PassCounts, PassResult, Spread

_Figures = TypeVar("_Figures", PassResult, Figures)


@dataclass(frozen=True)
class RequestResult:
    """One request, as the client saw it.

    Attributes:
        prompt_tokens, output_tokens: tokens of the prompt and of the answer.
        ttft_s: time to first token, in seconds.
        gaps_s: times between consecutive tokens, in seconds.
        error: why it failed; empty if it did not.
    """

    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    gaps_s: tuple[float, ...] = ()
    error: str = ""

    @property
    def seconds(self) -> float:
        """Time to the last token, in seconds."""
        return self.ttft_s + sum(self.gaps_s)


@dataclass(frozen=True)
class Measurement:
    """A measured pass: the client's view and the units' counts.

    Attributes:
        label: name of the pass.
        seconds: time from the first request to the last answer.
        answered: all requests, including those that failed.
        counted: the units' counts during the pass.
    """

    label: str
    seconds: float
    answered: tuple[RequestResult, ...]
    counted: PassCounts

    @property
    def failed(self) -> bool:
        """Whether any request failed."""
        return any(request.error for request in self.answered)


def read_vllm(body: Mapping[str, Any]) -> tuple[float, list[RequestResult]]:
    """Read a result of `vllm bench serve --save-detailed`: (duration in seconds, requests).

    Raises:
        KeyError: the result has no details.
    """
    columns = ("input_lens", "output_lens", "ttfts", "itls", "errors")
    rows = zip(*(body[name] for name in columns), strict=True)
    # A failure has an error, except for an answer without any text.
    return float(body["duration"]), [
        RequestResult(int(prompt), int(output or 0), float(ttft), tuple(gaps), _reason(error) or _empty(ttft))
        for prompt, output, ttft, gaps, error in rows
    ]


def read_aiperf(lines: Iterable[str]) -> tuple[float, list[RequestResult]]:
    """Read AIPerf's `profile_export.jsonl`: (duration in seconds, requests).

    Raises:
        ValueError, KeyError: the lines do not have its form.
    """
    records = [json.loads(line) for line in lines]
    records.sort(key=lambda record: record["metadata"]["session_num"])
    begins = [record["metadata"]["request_start_ns"] for record in records]
    ends = [record["metadata"]["request_end_ns"] for record in records]
    return (max(ends) - min(begins)) / 1e9, [_of_aiperf(record) for record in records]


def _of_aiperf(record: Mapping[str, Any]) -> RequestResult:
    metrics = record.get("metrics") or {}

    def value(name: str, otherwise: Any) -> Any:
        return metrics.get(name, {}).get("value", otherwise)

    ttft = value("time_to_first_token", 0.0) / 1000
    error = record.get("error") or {}
    why = " ".join(str(error[key]) for key in ("code", "type") if error.get(key)) or str(error or "")
    # The frontend sends its counts with the end of an answer. AIPerf 0.13 also counts an answer as a success
    # that ends with an error in its data, or merely ends (measured with aiperf==0.13.0).
    broke_off = "" if "usage_completion_tokens" in metrics else "the answer broke off: no usage came"
    return RequestResult(
        int(value("usage_prompt_tokens", 0)),
        int(value("usage_completion_tokens", 0)),
        ttft,
        tuple(gap / 1000 for gap in value("inter_chunk_latency", ())),
        why or _empty(ttft) or broke_off,
    )


def summed_up(measured: Measurement) -> PassResult:
    """The figures of a pass. Failed requests count only in `requests`, `failed` and `errors`."""
    succeeded = [request for request in measured.answered if not request.error]
    errors: dict[str, int] = {}
    for request in measured.answered:
        if request.error:
            errors[request.error] = errors.get(request.error, 0) + 1
    prompt = sum(request.prompt_tokens for request in succeeded)
    output = sum(request.output_tokens for request in succeeded)
    seconds = max(measured.seconds, 1e-9)
    return PassResult(
        measured.label,
        requests=len(measured.answered),
        failed=len(measured.answered) - len(succeeded),
        seconds=measured.seconds,
        prompt_tokens=prompt,
        output_tokens=output,
        requests_per_s=len(succeeded) / seconds,
        output_tokens_per_s=output / seconds,
        total_tokens_per_s=(prompt + output) / seconds,
        ttft_s=spread([request.ttft_s for request in succeeded]),
        inter_token_latency_s=spread([gap for request in succeeded for gap in request.gaps_s]),
        latency_s=spread([request.seconds for request in succeeded]),
        counted=measured.counted,
        errors=errors,
    )


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and percentiles of values; None if there are no values."""
    if not values:
        return None
    return Spread(sum(values) / len(values), *(percentile(values, share) for share in (0.5, 0.95, 0.99)))


def percentile(values: Iterable[float], share: float) -> float:
    """The percentile of values, with linear interpolation (as NumPy's default).

    Args:
        share: the percentile, 0 to 1.
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def times_faster(passes: Sequence[PassResult]) -> float | None:
    """The first pass's mean TTFT divided by that of the later passes; None if there is only one pass."""
    later = [result.ttft_s.mean for result in passes[1:] if result.ttft_s]
    if not later or passes[0].ttft_s is None:
        return None
    return passes[0].ttft_s.mean / (sum(later) / len(later))


def rounded(figures: _Figures) -> _Figures:
    """The same with four decimals: seconds to a tenth of a millisecond."""
    return cast("_Figures", _rounded(figures))


def _reason(error: str) -> str:
    """The last line of an error, which may be a traceback; at most 200 characters."""
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
        return {key: _rounded(item) for key, item in value.items()}
    return value
