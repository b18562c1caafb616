"""The answers of `bench --json`, `bench compare --json` and `bench tune --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dynamoctl.answers.envelope import Answer, Error


@dataclass(frozen=True)
class Spread:
    """How values are distributed, seconds.

    Attributes:
        mean: the mean.
        p50: the value that 50 % of all do not exceed.
        p95: the value that 95 % of all do not exceed.
        p99: the value that 99 % of all do not exceed.
    """

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class PassCounts:
    """What the units counted while a pass ran.

    Attributes:
        lmcache_hit_tokens: tokens that LMCache had; None if LMCache is off.
        lmcache_requested_tokens: tokens that LMCache was asked for: those that the engine's own prefix cache
            did not have; None if LMCache is off.
        prefix_hit_tokens: tokens that the engines' own prefix caches had; None if no engine counts them (the
            mocker).
        prefix_requested_tokens: tokens that the engines' own prefix caches were asked for; None as for
            `prefix_hit_tokens`.
        transfers: NIXL's KV transfers.
        transferred_bytes: bytes that they moved.
        failed_transfers: transfers and notifications that failed.
        memory_mib: unit -> host memory after the pass, MiB.
        gpu_memory_mib: GPU -> memory in use after the pass, by any process, MiB.
    """

    lmcache_hit_tokens: int | None = None
    lmcache_requested_tokens: int | None = None
    prefix_hit_tokens: int | None = None
    prefix_requested_tokens: int | None = None
    transfers: int = 0
    transferred_bytes: int = 0
    failed_transfers: int = 0
    memory_mib: Mapping[str, int] = field(default_factory=dict)
    gpu_memory_mib: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PassResult:
    """The figures of one pass. Failed requests count in `requests`, `failed` and `errors` only.

    Attributes:
        label: which pass.
        requests: requests that were sent.
        failed: how many of them failed.
        seconds: time from the first request to the last answer, seconds.
        prompt_tokens: tokens of all prompts, as the engine counts them.
        output_tokens: tokens of all answers, as the engine counts them.
        requests_per_s: requests per second.
        output_tokens_per_s: tokens of answers per second.
        total_tokens_per_s: tokens of prompts and answers per second.
        ttft_s: time to the first token, seconds; None if no request was answered.
        inter_token_latency_s: time from one token of an answer to the next, seconds; None if there was none.
        latency_s: time from a request to the last token of its answer, seconds; None if no request was
            answered.
        counted: what the units counted meanwhile.
        errors: reason -> how many requests failed for it.
    """

    label: str
    requests: int
    failed: int
    seconds: float
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft_s: Spread | None
    inter_token_latency_s: Spread | None
    latency_s: Spread | None
    counted: PassCounts
    errors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchWorker:
    """A worker that was measured.

    Attributes:
        name: the unit.
        gpus: its GPUs: indices (integers) or UUIDs (strings).
    """

    name: str
    gpus: tuple[int | str, ...]


@dataclass(frozen=True)
class BenchLMCache:
    """LMCache, as the deployment had it.

    Attributes:
        mode: `inproc` or `mp`.
        chunk_size: tokens per chunk.
        cpu_gib: the CPU memory that it takes, all ranks together, GiB.
        tiers: the kinds of its tiers below CPU memory, nearest first.
    """

    mode: Literal["inproc", "mp"]
    chunk_size: int
    cpu_gib: float
    tiers: tuple[str, ...]


@dataclass(frozen=True)
class BenchAnswer(Answer):
    """One workload on one deployment. If requests failed, `error` says so beside the figures.

    Attributes:
        name: the deployment.
        mode: `agg` or `disagg`.
        model: the name that clients use.
        device: `cuda` or `cpu`.
        engine: `vllm` or `mocker`.
        workers: the deployment's workers.
        lmcache: how LMCache was set; None if it was off.
        tool: the load generator.
        versions: package -> version, of the engine's packages that are installed.
        began: when it began, UTC.
        workload: `kind`, `seed`, and the sizes by the names of the command's flags.
        concurrency: requests in flight, at most.
        request_rate: requests that began per second, on average; None if each began as soon as it could.
        forgotten_by: how the engines' own prefix caches lost what they had: `reset` or `fill`; None if they
            kept it.
        passes: the figures of each pass.
        ttft_times_faster: the mean time to the first token in the first pass divided by that in the later
            passes (`reuse`); None if there is no such pass.
    """

    schema: ClassVar[str] = "dynamoctl/bench/v1"

    name: str
    mode: str
    model: str
    device: str
    engine: str
    workers: tuple[BenchWorker, ...]
    lmcache: BenchLMCache | None
    tool: str
    versions: Mapping[str, str]
    began: str
    workload: Mapping[str, str | int]
    concurrency: int
    request_rate: float | None
    forgotten_by: Literal["reset", "fill"] | None
    passes: tuple[PassResult, ...]
    ttft_times_faster: float | None


@dataclass(frozen=True)
class Figures:
    """What variants are compared by.

    Attributes:
        ttft_first_s: mean time to the first token in the first pass, seconds; None if no request was
            answered.
        ttft_later_s: mean time to the first token in all later passes, seconds; None if there is no later
            pass.
        inter_token_latency_p99_s: the 99th percentile of the time from one token to the next, over all
            passes, seconds; None if there was none.
        total_tokens_per_s: tokens of prompts and answers per second, over all passes.
    """

    ttft_first_s: float | None
    ttft_later_s: float | None
    inter_token_latency_p99_s: float | None
    total_tokens_per_s: float


@dataclass(frozen=True)
class Ratios:
    """A variant's figures divided by those of `against`: below 1 is shorter, or less; None if either is None.

    Attributes:
        ttft_first_s: ratio of the mean times to the first token in the first pass.
        ttft_later_s: ratio of the mean times to the first token in all later passes.
        inter_token_latency_p99_s: ratio of the 99th percentiles of the time from one token to the next.
        total_tokens_per_s: ratio of the throughputs.
    """

    ttft_first_s: float | None
    ttft_later_s: float | None
    inter_token_latency_p99_s: float | None
    total_tokens_per_s: float | None


@dataclass(frozen=True)
class VariantResult:
    """One variant.

    Attributes:
        name: the variant.
        ok: whether it was measured in every round.
        ready_s: time to ready in each round, seconds.
        figures: what it is compared by; None if it failed.
        ratios: its figures divided by those of `against`; None if it failed.
        bench: all rounds together, as `bench --json` has it; None if it failed.
        error: why it failed; None if it did not.
    """

    name: str
    ok: bool
    ready_s: tuple[float, ...]
    figures: Figures | None
    ratios: Ratios | None
    bench: BenchAnswer | None
    error: Error | None


@dataclass(frozen=True)
class CompareAnswer(Answer):
    """Several variants, measured with the same prompts. If a variant failed, `error` says so beside them.

    Attributes:
        began: when it began, UTC.
        workload: `kind`, `seed`, and the sizes by the names of the command's flags.
        concurrency: requests in flight, at most.
        request_rate: requests that began per second, on average; None if each began as soon as it could.
        repeat: rounds through all variants.
        against: the variant that the ratios are to: the first that did not fail; None if all failed.
        variants: the variants, in the order of the command line.
    """

    schema: ClassVar[str] = "dynamoctl/bench-compare/v1"

    began: str
    workload: Mapping[str, str | int]
    concurrency: int
    request_rate: float | None
    repeat: int
    against: str | None
    variants: tuple[VariantResult, ...]


@dataclass(frozen=True)
class TuneVariantResult(VariantResult):
    """One variant of a sweep: the keys of `bench compare`'s, and what it sets.

    Attributes:
        chunk_size: LMCache's tokens per chunk; None if it failed.
        cpu_gib: LMCache's CPU memory, all ranks together, GiB; None if it failed.
    """

    chunk_size: int | None
    cpu_gib: float | None


@dataclass(frozen=True)
class TuneAnswer(CompareAnswer):
    """A sweep, and the best of it: the keys of `bench compare`, and these.

    Attributes:
        best: the variant that was chosen; None if all failed.
        values: the keys of `[lmcache]` that it sets.
        config: the path of the TOML.
        written: whether the values were set in it.
    """

    schema: ClassVar[str] = "dynamoctl/bench-tune/v1"

    variants: tuple[TuneVariantResult, ...]
    best: str | None
    values: Mapping[str, int | float]
    config: str
    written: bool
