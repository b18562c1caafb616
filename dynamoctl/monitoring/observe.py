"""One snapshot of a running deployment: health, load, cache hits, KV transfers, memory.

All figures come from the units' own Prometheus metrics; nothing is counted here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynamoctl.host import gpus, processes
from dynamoctl.monitoring import probes
from dynamoctl.planner import migration
from dynamoctl.planner.plan import DeploymentPlan, Unit

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

# Dynamo's frontend counts what clients see. (The workers' counters would count a prompt twice: on a prefill
# worker and on a decode worker.)
_FRONTEND_COUNTERS = {
    "dynamo_frontend_requests_total": "requests",
    "dynamo_frontend_input_sequence_tokens_sum": "prompt_tokens",
    "dynamo_frontend_output_tokens_total": "generation_tokens",
}
# Requests that were moved because their worker died; Dynamo has no such metric before the first one.
_MIGRATIONS = "dynamo_frontend_model_migration_total"
_FRONTEND_HISTOGRAMS = {
    "dynamo_frontend_time_to_first_token_seconds_bucket": "ttft",
    "dynamo_frontend_inter_token_latency_seconds_bucket": "inter_token_latency",
}
# vLLM's count of tokens that it requested from its connector and got. On a decode worker these are NIXL
# transfers; on the others they are LMCache hits, both in-process and with a server. (In-process, LMCache's
# own counters do not reach the worker's metrics port: seen on an H100 with lmcache 0.5.3.)
_CACHE_COUNTERS = {
    "vllm:external_prefix_cache_hits_total": "hit_tokens",
    "vllm:external_prefix_cache_queries_total": "requested_tokens",
}
# vLLM's own prefix cache on the device. (On a decode worker it is queried for what prefill has computed.)
_PREFIX_COUNTERS = {
    "vllm:prefix_cache_hits_total": "prefix_hit_tokens",
    "vllm:prefix_cache_queries_total": "prefix_requested_tokens",
}
_WORKER_COUNTERS = {
    "vllm:nixl_xfer_time_seconds_count": "transfers",
    "vllm:nixl_bytes_transferred_sum": "transferred_bytes",
    "vllm:nixl_num_failed_transfers_total": "failed_transfers",
    "vllm:nixl_num_failed_notifications_total": "failed_transfers",
}
_GAUGES = {
    "vllm:num_requests_running": "requests_running",
    "vllm:num_requests_waiting": "requests_waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
}
# What Dynamo counts in a worker's process: of each of its endpoints.
_REQUESTS = (
    "dynamo_component_inflight_requests",
    "dynamo_component_request_duration_seconds_count",
    "dynamo_component_errors_total",
)
_ENGINE_REQUESTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_CACHE_CONFIG = "vllm:cache_config_info"
_CACHE_MEMORY = "lmcache_mp_l1_memory_usage_bytes"
_FRONTEND = (*_FRONTEND_COUNTERS, *_FRONTEND_HISTOGRAMS, _MIGRATIONS)
_WORKER = tuple({**_CACHE_COUNTERS, **_PREFIX_COUNTERS, **_WORKER_COUNTERS, **_GAUGES})


@dataclass
class Memory:
    """Memory in use, MiB.

    Attributes:
        units: unit -> host memory of its processes.
        gpu_units: unit -> GPU memory of its processes; a unit is missing if NVML does not show its
            processes (in some containers).
        gpus: GPU, as the plan names it -> (memory in use by any process, total memory).
        utilization: GPU -> share of NVML's last sample in which a kernel ran, 0 to 1; a GPU is missing if
            NVML does not report it (MIG).
    """

    units: dict[str, int] = field(default_factory=dict)
    gpu_units: dict[str, int] = field(default_factory=dict)
    gpus: dict[str, tuple[int, int]] = field(default_factory=dict)
    utilization: dict[str, float] = field(default_factory=dict)


@dataclass
class Snapshot:
    """The observations of one moment.

    Attributes:
        health: unit -> `ok`, or why it is not healthy.
        cache: LMCache's hit tokens, requested tokens and their ratio; None if LMCache is off.
        transfers: NIXL's KV transfers: count, bytes, failed.
        memory: memory of the units and GPUs.
        taken_at: the moment, in seconds of CLOCK_MONOTONIC.
        counters: unit -> name -> count since its process started. A unit that did not answer is missing, and
            so is a counter that the unit does not have.
        histograms: unit -> name -> upper bound, as Prometheus writes it -> number of values at or below it.
        gauges: unit -> name -> current value.
        failed_by_type: error type, as the frontend names it -> number of requests, the most frequent first;
            None if the frontend did not answer.
        remote: the deployment's workers on other hosts: component, endpoint, address; None if etcd does not
            answer.
    """

    health: dict[str, str] = field(default_factory=dict)
    cache: dict[str, Any] | None = None
    transfers: dict[str, int] = field(default_factory=lambda: {"count": 0, "bytes": 0, "failed": 0})
    memory: Memory = field(default_factory=Memory)
    taken_at: float = field(default_factory=time.monotonic)
    counters: dict[str, dict[str, float]] = field(default_factory=dict)
    histograms: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    gauges: dict[str, dict[str, float]] = field(default_factory=dict)
    failed_by_type: dict[str, int] | None = None
    remote: list[dict[str, str]] | None = field(default_factory=list)

    def total(self, counter: str) -> int:
        """The sum of a counter over all units."""
        return int(sum(counts.get(counter, 0) for counts in self.counters.values()))


async def snapshot(plan: DeploymentPlan, silent: Mapping[str, str] | None = None) -> Snapshot:
    """Query all units concurrently. A unit that does not answer is unhealthy, not an error.

    Args:
        silent: unit -> why it is not queried; for units that are known not to answer in time.
    """
    result = Snapshot(health=dict(silent or {}))
    await asyncio.gather(*(_ask(plan, unit, result) for unit in plan.units if unit.name not in result.health))
    if plan.lmcache is not None:
        hits, asked = result.total("hit_tokens"), result.total("requested_tokens")
        rate = round(hits / asked, 4) if asked else None
        result.cache = {"hit_tokens": hits, "requested_tokens": asked, "hit_rate": rate}
    result.transfers = {
        "count": result.total("transfers"),
        "bytes": result.total("transferred_bytes"),
        "failed": result.total("failed_transfers"),
    }
    return result


async def _ask(plan: DeploymentPlan, unit: Unit, snapshot: Snapshot) -> None:
    if unit.role == "frontend":
        (ok, why), text = await asyncio.gather(
            probes.lists_model(plan.endpoint, plan.model),
            probes.get_text(f"{plan.endpoint}/metrics"),
        )
    else:
        (ok, why), text = await asyncio.gather(
            probes.gate_is_open(unit.gate),
            probes.get_text(f"{unit.gate.origin}/metrics"),
        )
    snapshot.health[unit.name] = "ok" if ok else why
    if text:
        _add(text, plan, unit, snapshot)


def _add(text: str, plan: DeploymentPlan, unit: Unit, snapshot: Snapshot) -> None:
    """Add the figures of a unit's metrics page to the snapshot."""
    counters = snapshot.counters.setdefault(unit.name, {})
    if unit.role == "frontend":
        histograms = snapshot.histograms.setdefault(unit.name, {})
        failures: dict[str, float] = {}
        moves = migration.moves(plan, unit)
        if moves:
            counters["migrations"] = 0
        for sample in _samples(text, _FRONTEND):
            if name := _FRONTEND_HISTOGRAMS.get(sample.name):
                _count(histograms.setdefault(name, {}), sample.labels["le"], sample.value)
                continue
            if sample.name == _MIGRATIONS:
                if moves:
                    _count(counters, "migrations", sample.value)
                continue
            _count(counters, _FRONTEND_COUNTERS[sample.name], sample.value)
            if sample.name == "dynamo_frontend_requests_total":
                is_failure = sample.labels.get("status") == "error"
                _count(counters, "failed_requests", sample.value if is_failure else 0)
                if is_failure:
                    _count(failures, sample.labels.get("error_type") or "unknown", sample.value)
        # The most frequent type first.
        order = sorted(failures, key=lambda name: (-failures[name], name))
        snapshot.failed_by_type = {name: int(failures[name]) for name in order}
        return
    computes = unit.role in ("agg", "prefill")
    cache = _CACHE_COUNTERS if plan.lmcache is not None else {}
    hits = {**_PREFIX_COUNTERS, **cache} if computes else {}
    gauges: dict[str, list[float]] = {}
    for sample in _samples(text, _WORKER):
        if sample.name in _GAUGES:
            gauges.setdefault(_GAUGES[sample.name], []).append(sample.value)
        elif sample.name in _WORKER_COUNTERS:
            _count(counters, _WORKER_COUNTERS[sample.name], sample.value)
        elif sample.name in hits:
            _count(counters, hits[sample.name], sample.value)
    # A worker with several engines (data parallelism) has one value for each.
    snapshot.gauges[unit.name] = {
        name: sum(values) / (len(values) if name == "kv_cache_usage" else 1)
        for name, values in gauges.items()
    }


def _samples(text: str, wanted: tuple[str, ...]) -> list[Sample]:
    """The finite samples of these names. Only their lines are parsed: a page has 1,000 more."""
    lines = "\n".join(line for line in text.split("\n") if line.startswith(wanted)) + "\n"
    # Imported here because it also imports an HTTP server (1.5 MB), which not every supervisor needs.
    from prometheus_client.parser import text_string_to_metric_families

    return [
        sample
        for family in text_string_to_metric_families(lines)
        for sample in family.samples
        if sample.name in wanted and math.isfinite(sample.value)
    ]


def _count(counts: dict[str, float], name: str, value: float) -> None:
    counts[name] = counts.get(name, 0) + value


@dataclass
class Requests:
    """The requests of one worker, as Dynamo counts them in its process.

    Attributes:
        running: those that it has now.
        done: those that have ended well, since its start.
    """

    running: float = 0.0
    done: float = 0.0


async def requests_of(unit: Unit) -> Requests | None:
    """The requests of a worker; None if it does not answer."""
    text = await probes.get_text(f"{unit.gate.origin}/metrics")
    if not text:
        return None
    sums = dict.fromkeys((*_REQUESTS, *_ENGINE_REQUESTS), 0.0)
    for sample in _samples(text, tuple(sums)):
        if sample.labels.get("dynamo_endpoint", "generate") == "generate":
            sums[sample.name] += sample.value
    in_flight, ended, errors = (sums[name] for name in _REQUESTS)
    return Requests(max(in_flight, sum(sums[name] for name in _ENGINE_REQUESTS)), ended - errors)


async def transfers(plan: DeploymentPlan) -> int:
    """Number of KV transfers that the decode workers have finished; 0 if there are no decode workers."""
    snapshot = Snapshot()
    decode = [unit for unit in plan.workers if unit.role == "decode" and plan.moves_kv_cache]
    await asyncio.gather(*(_ask(plan, unit, snapshot) for unit in decode))
    return snapshot.total("transfers")


async def cache_memory_bytes(plan: DeploymentPlan) -> float:
    """What LMCache's server holds in memory; 0 if it does not say."""
    text = await probes.get_text(f"http://127.0.0.1:{plan.unit('lmcache').ports['http']}/metrics")
    return sum(sample.value for sample in _samples(text, (_CACHE_MEMORY,)))


async def kv_cache_tokens(plan: DeploymentPlan) -> int:
    """Capacity of the on-device KV caches of the workers that compute prompts, in tokens; 0 if unknown."""
    workers = [unit for unit in plan.workers if unit.role in ("agg", "prefill")]
    texts = await asyncio.gather(*(probes.get_text(f"{worker.gate.origin}/metrics") for worker in workers))
    return sum(_cache_size(sample.labels) for text in texts for sample in _samples(text, (_CACHE_CONFIG,)))


def _cache_size(labels: Mapping[str, str]) -> int:
    """KV cache size in tokens, as vLLM reports it (0.26), or the number of blocks times their size."""
    try:
        if (tokens := labels.get("kv_cache_size_tokens", "")).isdigit():
            return int(tokens)
        return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    except (KeyError, ValueError):
        return 0


def memory(units: Mapping[str, tuple[Sequence[int], Sequence[int | str]]]) -> Memory:
    """Memory of units and of their GPUs.

    Args:
        units: unit -> (pids of its processes, its GPUs as the plan names them).
    """
    usage = Memory({name: processes.resident_mib(pids) for name, (pids, _) in units.items()})
    if not any(gpu_names for _, gpu_names in units.values()):
        return usage
    with gpus.session():
        all_gpus, used, held = gpus.list_gpus(), gpus.memory_used(), gpus.memory_by_process()
        busy = gpus.utilization()
    for name, (pids, gpu_names) in units.items():
        for gpu_name in gpu_names:
            gpu = next((gpu for gpu in all_gpus if gpu.is_named(gpu_name)), None)
            if gpu is None or gpu.index not in used:
                continue
            usage.gpus[str(gpu_name)] = (used[gpu.index], gpu.memory_mib)
            if gpu.index in busy:
                usage.utilization[str(gpu_name)] = busy[gpu.index]
            ours = [mib for pid, mib in held.get(gpu.index, {}).items() if pid in pids]
            if ours:
                usage.gpu_units[name] = usage.gpu_units.get(name, 0) + sum(ours)
    return usage
