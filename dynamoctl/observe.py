"""One snapshot of a running deployment: health, cache hits, KV transfers, GPU memory.

The units are asked for their own Prometheus metrics; nothing is counted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from dynamoctl import probes
from dynamoctl.host import gpus, processes
from dynamoctl.planner.plan import DeploymentPlan, Unit

# vLLM's own count of what its connector was asked for and gave. On a decode worker these are NIXL's
# transfers; on the others they are LMCache's hits, in process and with a server alike. (LMCache's own
# counters do not reach the worker's metrics port in process: seen on an H100 with lmcache 0.5.3.)
_CACHE_COUNTERS = {
    "vllm:external_prefix_cache_hits_total": "hit_tokens",
    "vllm:external_prefix_cache_queries_total": "requested_tokens",
}


@dataclass
class Memory:
    """Memory in use, MiB.

    Attributes:
        units: unit -> what its processes hold of the host's memory.
        gpu_units: unit -> what they hold on their GPUs; a unit is missing where NVML does not show
            its processes (in some containers).
        gpus: each GPU of the plan, as the plan names it -> (in use by anybody, in all).
    """

    units: dict[str, int] = field(default_factory=dict)
    gpu_units: dict[str, int] = field(default_factory=dict)
    gpus: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Snapshot:
    """What was seen at one moment.

    Attributes:
        health: unit -> `ok` or why not.
        cache: hit and requested tokens of LMCache, and their ratio; None where LMCache is off.
        transfers: NIXL's KV transfers: count, bytes, failed.
        memory: what the units hold.
    """

    health: dict[str, str] = field(default_factory=dict)
    cache: dict[str, Any] | None = None
    transfers: dict[str, int] = field(default_factory=lambda: {"count": 0, "bytes": 0, "failed": 0})
    memory: Memory = field(default_factory=Memory)


async def snapshot(http: httpx2.AsyncClient, plan: DeploymentPlan) -> Snapshot:
    """Ask every unit, all at once. A unit that does not answer is unhealthy, not an error."""
    seen = Snapshot()
    if plan.lmcache is not None:
        seen.cache = {"hit_tokens": 0, "requested_tokens": 0, "hit_rate": None}
    await asyncio.gather(*(_ask(http, plan, unit, seen) for unit in plan.units))
    if seen.cache is not None and seen.cache["requested_tokens"]:
        seen.cache["hit_rate"] = round(seen.cache["hit_tokens"] / seen.cache["requested_tokens"], 4)
    return seen


async def _ask(http: httpx2.AsyncClient, plan: DeploymentPlan, unit: Unit, seen: Snapshot) -> None:
    if unit.role == "frontend":
        listed, why = await probes.lists_model(http, plan.endpoint, plan.model)
        seen.health[unit.name] = "ok" if listed else why
        return
    (ok, answer), text = await asyncio.gather(
        probes.gate_is_open(http, unit.gate),
        probes.get_text(http, f"http://127.0.0.1:{unit.gate.port}/metrics"),
    )
    seen.health[unit.name] = "ok" if ok else answer
    _add(text, unit, seen)


def _add(text: str, unit: Unit, seen: Snapshot) -> None:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name, value = sample.name, sample.value
            key = _CACHE_COUNTERS.get(name)
            if key and seen.cache is not None and unit.role in ("agg", "prefill"):
                seen.cache[key] += int(value)
            elif name == "vllm:nixl_xfer_time_seconds_count":
                seen.transfers["count"] += int(value)
            elif name == "vllm:nixl_bytes_transferred_sum":
                seen.transfers["bytes"] += int(value)
            elif name in ("vllm:nixl_num_failed_transfers_total", "vllm:nixl_num_failed_notifications_total"):
                seen.transfers["failed"] += int(value)


async def transfers(http: httpx2.AsyncClient, plan: DeploymentPlan) -> int:
    """How many KV transfers the decode workers have finished; 0 where there is none to ask."""
    seen = Snapshot()
    decode = [unit for unit in plan.workers if unit.role == "decode" and plan.moves_kv_cache]
    await asyncio.gather(*(_ask(http, plan, unit, seen) for unit in decode))
    return seen.transfers["count"]


def memory(units: Mapping[str, tuple[Sequence[int], Sequence[int | str]]]) -> Memory:
    """What units hold, given each one's pids and GPUs."""
    found = Memory({name: processes.resident_mib(pids) for name, (pids, _) in units.items()})
    if not any(on for _, on in units.values()):
        return found
    with gpus.session():
        there, used, held = gpus.list_gpus(), gpus.memory_used(), gpus.memory_by_process()
    for name, (pids, on) in units.items():
        for entry in on:
            gpu = next((one for one in there if one.is_named(entry)), None)
            if gpu is None:
                continue
            found.gpus[str(entry)] = (used[gpu.index], gpu.memory_mib)
            ours = [mib for pid, mib in held.get(gpu.index, {}).items() if pid in pids]
            if ours:
                found.gpu_units[name] = found.gpu_units.get(name, 0) + sum(ours)
    return found
