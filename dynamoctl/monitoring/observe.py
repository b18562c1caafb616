"""One snapshot of a running deployment: health, load, cache hits, KV transfers, memory.

The units are asked for their own Prometheus metrics; nothing is counted here.
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

# Dynamo's frontend counts what clients see. (The workers' own counts would count a prompt twice, on a prefill
# worker and on a decode worker.)
_FRONTEND_COUNTERS = {
    "dynamo_frontend_requests_total": "requests",
    "dynamo_frontend_input_sequence_tokens_sum": "prompt_tokens",
    "dynamo_frontend_output_tokens_total": "generation_tokens",
}
# Requests that were moved to another worker because theirs had died; no such counter before the first.
_MIGRATIONS = "dynamo_frontend_model_migration_total"
_FRONTEND_HISTOGRAMS = {
    "dynamo_frontend_time_to_first_token_seconds_bucket": "ttft",
    "dynamo_frontend_inter_token_latency_seconds_bucket": "inter_token_latency",
}
# vLLM's own count of what its connector was asked for and gave. On a decode worker these are NIXL's
# transfers; on the others they are LMCache's hits, in process and with a server alike. (LMCache's own
# counters do not reach the worker's metrics port in process: seen on an H100 with lmcache 0.5.3.)
_CACHE_COUNTERS = {
    "vllm:external_prefix_cache_hits_total": "hit_tokens",
    "vllm:external_prefix_cache_queries_total": "requested_tokens",
}
# What vLLM keeps on the device itself. (A decode worker's is asked for what prefill has computed already.)
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
_CACHE_CONFIG = "vllm:cache_config_info"
_FRONTEND = (*_FRONTEND_COUNTERS, *_FRONTEND_HISTOGRAMS, _MIGRATIONS)
_WORKER = tuple({**_CACHE_COUNTERS, **_PREFIX_COUNTERS, **_WORKER_COUNTERS, **_GAUGES})


@dataclass
class Memory:
    """Memory in use, MiB.

    Attributes:
        units: unit -> what its processes hold of the host's memory.
        gpu_units: unit -> what they hold on their GPUs; a unit is missing where NVML does not show
            its processes (in some containers).
        gpus: each GPU of the plan, as the plan names it -> (in use by anybody, in all).
        utilization: each of these -> the share of the last moment in which it worked, 0 to 1; a GPU is
            missing where NVML does not say (MIG).
    """

    units: dict[str, int] = field(default_factory=dict)
    gpu_units: dict[str, int] = field(default_factory=dict)
    gpus: dict[str, tuple[int, int]] = field(default_factory=dict)
    utilization: dict[str, float] = field(default_factory=dict)


@dataclass
class Snapshot:
    """What was seen at one moment.

    Attributes:
        health: unit -> `ok` or why not.
        cache: hit and requested tokens of LMCache, and their ratio; None where LMCache is off.
        transfers: NIXL's KV transfers: count, bytes, failed.
        memory: what the units hold.
        taken_at: when, on the clock of the host that does not jump (CLOCK_MONOTONIC), seconds.
        counters: unit -> name -> what it has counted since its process began. A unit that did not answer is
            missing, and so is a name that it has no counter for.
        histograms: unit -> name -> upper bound, as Prometheus writes it -> how many values were not above it.
        gauges: unit -> name -> what holds now.
        remote: the deployment's workers on other hosts: component, endpoint, address; None where etcd does
            not say.
    """

    health: dict[str, str] = field(default_factory=dict)
    cache: dict[str, Any] | None = None
    transfers: dict[str, int] = field(default_factory=lambda: {"count": 0, "bytes": 0, "failed": 0})
    memory: Memory = field(default_factory=Memory)
    taken_at: float = field(default_factory=time.monotonic)
    counters: dict[str, dict[str, float]] = field(default_factory=dict)
    histograms: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    gauges: dict[str, dict[str, float]] = field(default_factory=dict)
    remote: list[dict[str, str]] | None = field(default_factory=list)

    def total(self, counter: str) -> int:
        """What all units have counted."""
        return int(sum(counts.get(counter, 0) for counts in self.counters.values()))


async def snapshot(plan: DeploymentPlan, silent: Mapping[str, str] | None = None) -> Snapshot:
    """Ask every unit, all at once. A unit that does not answer is unhealthy, not an error.

    Args:
        silent: unit -> why it is not asked: it is known not to answer, and would be waited for.
    """
    seen = Snapshot(health=dict(silent or {}))
    await asyncio.gather(*(_ask(plan, unit, seen) for unit in plan.units if unit.name not in seen.health))
    if plan.lmcache is not None:
        hits, asked = seen.total("hit_tokens"), seen.total("requested_tokens")
        rate = round(hits / asked, 4) if asked else None
        seen.cache = {"hit_tokens": hits, "requested_tokens": asked, "hit_rate": rate}
    seen.transfers = {
        "count": seen.total("transfers"),
        "bytes": seen.total("transferred_bytes"),
        "failed": seen.total("failed_transfers"),
    }
    return seen


async def _ask(plan: DeploymentPlan, unit: Unit, seen: Snapshot) -> None:
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
    seen.health[unit.name] = "ok" if ok else why
    if text:
        _add(text, plan, unit, seen)


def _add(text: str, plan: DeploymentPlan, unit: Unit, seen: Snapshot) -> None:
    """What a unit's page says of what we want to know."""
    counters = seen.counters.setdefault(unit.name, {})
    if unit.role == "frontend":
        histograms = seen.histograms.setdefault(unit.name, {})
        moves = migration.is_on(unit)
        if moves:
            counters["migrations"] = 0
        for one in _samples(text, _FRONTEND):
            if name := _FRONTEND_HISTOGRAMS.get(one.name):
                _count(histograms.setdefault(name, {}), one.labels["le"], one.value)
                continue
            if one.name == _MIGRATIONS:
                if moves:
                    _count(counters, "migrations", one.value)
                continue
            _count(counters, _FRONTEND_COUNTERS[one.name], one.value)
            if one.name == "dynamo_frontend_requests_total":
                _count(counters, "failed_requests", one.value if one.labels.get("status") == "error" else 0)
        return
    computes = unit.role in ("agg", "prefill")
    cache = _CACHE_COUNTERS if plan.lmcache is not None else {}
    hits = {**_PREFIX_COUNTERS, **cache} if computes else {}
    gauges: dict[str, list[float]] = {}
    for one in _samples(text, _WORKER):
        if one.name in _GAUGES:
            gauges.setdefault(_GAUGES[one.name], []).append(one.value)
        elif one.name in _WORKER_COUNTERS:
            _count(counters, _WORKER_COUNTERS[one.name], one.value)
        elif one.name in hits:
            _count(counters, hits[one.name], one.value)
    # One value for each of its engines, where it has several (data parallelism).
    seen.gauges[unit.name] = {
        name: sum(values) / (len(values) if name == "kv_cache_usage" else 1)
        for name, values in gauges.items()
    }


def _samples(text: str, wanted: tuple[str, ...]) -> list[Sample]:
    """The samples of these names that are numbers. Only their lines are parsed: a page has 1,000 more."""
    few = "\n".join(line for line in text.split("\n") if line.startswith(wanted)) + "\n"
    # Here, and not for every supervisor: it brings an HTTP server with it, 1.5 MB.
    from prometheus_client.parser import text_string_to_metric_families

    return [
        one
        for family in text_string_to_metric_families(few)
        for one in family.samples
        if one.name in wanted and math.isfinite(one.value)
    ]


def _count(counts: dict[str, float], name: str, value: float) -> None:
    counts[name] = counts.get(name, 0) + value


async def transfers(plan: DeploymentPlan) -> int:
    """How many KV transfers the decode workers have finished; 0 where there is none to ask."""
    seen = Snapshot()
    decode = [unit for unit in plan.workers if unit.role == "decode" and plan.moves_kv_cache]
    await asyncio.gather(*(_ask(plan, unit, seen) for unit in decode))
    return seen.total("transfers")


async def kv_cache_tokens(plan: DeploymentPlan) -> int:
    """How many tokens' KV cache fit on the devices of the workers that compute prompts; 0 where none says."""
    asked = [unit for unit in plan.workers if unit.role in ("agg", "prefill")]
    texts = await asyncio.gather(*(probes.get_text(f"{unit.gate.origin}/metrics") for unit in asked))
    return sum(_cache_size(one.labels) for text in texts for one in _samples(text, (_CACHE_CONFIG,)))


def _cache_size(labels: Mapping[str, str]) -> int:
    """As vLLM says it (0.26), or blocks times their size."""
    try:
        if (said := labels.get("kv_cache_size_tokens", "")).isdigit():
            return int(said)
        return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    except (KeyError, ValueError):
        return 0


def memory(units: Mapping[str, tuple[Sequence[int], Sequence[int | str]]]) -> Memory:
    """What units hold, given each one's pids and GPUs."""
    found = Memory({name: processes.resident_mib(pids) for name, (pids, _) in units.items()})
    if not any(on for _, on in units.values()):
        return found
    with gpus.session():
        there, used, held = gpus.list_gpus(), gpus.memory_used(), gpus.memory_by_process()
        busy = gpus.utilization()
    for name, (pids, on) in units.items():
        for entry in on:
            gpu = next((one for one in there if one.is_named(entry)), None)
            if gpu is None:
                continue
            found.gpus[str(entry)] = (used[gpu.index], gpu.memory_mib)
            if gpu.index in busy:
                found.utilization[str(entry)] = busy[gpu.index]
            ours = [mib for pid, mib in held.get(gpu.index, {}).items() if pid in pids]
            if ours:
                found.gpu_units[name] = found.gpu_units.get(name, 0) + sum(ours)
    return found
