"""A line of `status --watch --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer
from dynamoctl.answers.status import SCHEMA, StatusAnswer


@dataclass
class Rates:
    """What was counted since the last look. A rate is None if no unit counts such events.

    Attributes:
        interval_s: time since the last look, seconds.
        requests_per_s: finished requests per second.
        failed_requests_per_s: requests per second that ended with an error.
        prompt_tokens_per_s: prompt tokens per second.
        generation_tokens_per_s: generated tokens per second.
        cache_hit_rate: the share of the tokens LMCache was asked for that it had, 0 to 1; None if it was
            asked for none.
        transfers_per_s: NIXL's KV transfers per second.
        transferred_bytes_per_s: bytes per second that they moved.
        latency_interval_s: the time that the latencies below cover, seconds: the last 30 s, or the last
            interval if that is longer.
        ttft_p50_s: time to first token that half of the requests did not exceed, seconds, interpolated within
            a bucket of the frontend's histogram; None if there was no request.
        ttft_p95_s: time to first token that 95 % of the requests did not exceed, seconds.
        inter_token_latency_p50_s: time from one token to the next that half of them did not exceed, seconds.
        inter_token_latency_p95_s: time from one token to the next that 95 % of them did not exceed, seconds.
    """

    interval_s: float | None
    requests_per_s: float | None
    failed_requests_per_s: float | None
    prompt_tokens_per_s: float | None
    generation_tokens_per_s: float | None
    cache_hit_rate: float | None
    transfers_per_s: float | None
    transferred_bytes_per_s: float | None
    latency_interval_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    inter_token_latency_p50_s: float | None
    inter_token_latency_p95_s: float | None


@dataclass
class WatchAnswer(StatusAnswer):
    """One deployment at one look: the keys of `status --json`, and the rates.

    Attributes:
        rates: what was counted since the last look; None at the first look at a start, and if no unit was
            asked.
    """

    rates: Rates | None = None


@dataclass
class WatchAllAnswer(Answer):
    """Every deployment at one look (`--all`).

    Attributes:
        deployments: the deployments, sorted by name.
    """

    schema: ClassVar[str] = SCHEMA

    deployments: tuple[WatchAnswer, ...]
