"""Which patches of vLLM, LMCache and NIXL a worker gets, as the environment that switches them on.

The patches are values: `dynamoctl.patches`. A patch is asked for only with the versions that it was tested
with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dynamoctl.patches import (
    compile_cache_name,
    end_engine,
    fork_engine,
    fork_workers,
    lmcache_instance,
    lmcache_layout,
    lmcache_salt,
    lmcache_server,
    lmcache_store_timeout,
    nixl_dead_peers,
    nixl_progress_delay,
    nixl_shared_memory,
    nixl_unbound,
    packed_kv,
    seeded_prefill,
    spin,
    wake_up,
)
from dynamoctl.patches.base import Patch
from dynamoctl.planner import discovery
from dynamoctl.planner.connectors import CacheMode, Device
from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.plan import Reason, Role
from dynamoctl.planner.rules import BY_NAME
from dynamoctl.tested_versions import engine_versions

# Shorter than a step, so that a worker that has nothing to do sleeps, and longer than the gap between steps.
_SPIN_MS = "20"


@dataclass(frozen=True)
class PatchedWorker:
    """What decides on a worker's patches.

    Attributes:
        ranks: its processes that compute.
        cache: LMCache's mode, None if it is off.
        uses_nixl: whether NIXL is among its connectors.
        between_hosts: whether it exchanges KV blocks with workers on other hosts.
        is_unbound: whether its threads on a CPU are bound to no cores (`VLLM_CPU_OMP_THREADS_BIND=nobind`).
        versions: distribution -> version, of what is installed.
    """

    role: Role
    device: Device
    ranks: int
    cache: CacheMode | None
    uses_nixl: bool
    between_hosts: bool
    is_unbound: bool
    versions: Mapping[str, str]


def reasons(unit: UnitContext) -> tuple[Reason, ...]:
    """The variables that switch on the patches of a vLLM worker, each with its reason."""
    worker = PatchedWorker(
        role=unit.role,
        device=unit.plan.device,
        ranks=unit.spec.tp,
        cache=unit.plan.cache,
        uses_nixl="nixl" in unit.ports,
        between_hosts=discovery.between_hosts(unit.spec),
        is_unbound=_is_unbound(unit),
        versions=unit.plan.facts.versions,
    )
    return tuple(
        Reason(
            rule=f"patch {patch.name}",
            sets=patch.variable,
            value=value,
            why=f"It switches on a patch of {patch.package}. Without it, {patch.without}.",
            source=patch.upstream,
            without=patch.without,
            override_expected=not patch.is_required,
        )
        for patch, value in wanted(worker)
    )


def _is_unbound(unit: UnitContext) -> bool:
    rule = BY_NAME["threads-not-bound"]
    planned = rule.value if rule.applies(unit) else ""
    return unit.spec.env.get(rule.sets, planned) == rule.value


def wanted(worker: PatchedWorker) -> list[tuple[Patch, str]]:
    """The worker's patches, each with the value of its variable. None is asked for with untested versions."""
    versions = engine_versions(worker.versions, worker.device)
    return [(patch, value) for patch, value in _helpful(worker, versions) if patch.is_tested_with(versions)]


def _helpful(worker: PatchedWorker, versions: Mapping[str, str]) -> Iterator[tuple[Patch, str]]:
    """The patches that help this worker, each with its variable's value.

    The versions decide only where a patch was tested with others on GPUs than on CPUs.
    """
    on_cpu = worker.device == "cpu"
    yield fork_engine.PATCH, "1"
    # With one rank on a GPU, the engine is one process; on a CPU it never is.
    if on_cpu or worker.ranks > 1:
        yield wake_up.PATCH, "1"
    if on_cpu:
        yield spin.PATCH, _SPIN_MS
        yield seeded_prefill.PATCH, "1"
    # With the older versions, bound threads were not tried.
    if on_cpu and (worker.is_unbound or versions.get("vllm") in fork_workers.BINDS):
        yield fork_workers.PATCH, "1"
    if worker.role == "prefill":
        yield end_engine.PATCH, "1"
    if worker.uses_nixl:
        yield compile_cache_name.PATCH, "1"
    if worker.uses_nixl and (on_cpu or versions.get("nixl") in nixl_progress_delay.ON_GPUS):
        yield nixl_progress_delay.PATCH, str(nixl_progress_delay.DELAY_US[worker.device])
    if worker.uses_nixl and worker.role == "decode":
        yield nixl_dead_peers.PATCH, "1"
    # On GPUs the blocks go by CUDA IPC, which does not stall.
    if worker.uses_nixl and on_cpu:
        if not worker.between_hosts:
            yield nixl_shared_memory.PATCH, "1"
        yield nixl_unbound.PATCH, "1"
    # A decode worker does not use LMCache.
    if worker.role != "decode":
        if worker.cache == "mp":
            yield lmcache_server.PATCH, "1"
            yield lmcache_salt.PATCH, "1"
            yield lmcache_layout.PATCH, "1"
            yield lmcache_instance.PATCH, "1"
            yield lmcache_store_timeout.PATCH, "1"
        if worker.cache == "inproc":
            yield packed_kv.PATCH, "1"
