"""LMCache's settings as environment (in process) or as arguments of its server (mp)."""

from __future__ import annotations

from dynamoctl.planner.connectors import CacheMode, Device
from dynamoctl.spec import DeploymentSpec, LMCacheSpec

# As the LMCache integration of Dynamo has it: 20 GiB of pinned CPU memory for each rank.
DEFAULT_CPU_GB = {"cuda": 20.0, "cpu": 1.0}


def mode(spec: LMCacheSpec, device: Device) -> CacheMode | None:
    """LMCache's mode on this device; None where it is off.

    In process it has no connector for a CPU engine: it would run in degraded mode, without a cache
    and with seconds added to each request. So a CPU gets the server.
    """
    if not spec.enabled:
        return None
    if spec.mode != "auto":
        return spec.mode
    return "inproc" if device == "cuda" else "mp"


def cpu_gb(spec: LMCacheSpec, device: Device) -> float:
    """GiB of CPU memory: for each rank in process, for the host with a server."""
    return spec.cpu_gb if spec.cpu_gb is not None else DEFAULT_CPU_GB[device]


def total_cpu_gib(spec: DeploymentSpec, device: Device, cache: CacheMode | None) -> float:
    """GiB of CPU memory on the whole host. A decode worker holds no cache of LMCache's."""
    if cache is None:
        return 0.0
    caching = spec.workers if spec.mode == "agg" else spec.prefill
    return cpu_gb(spec.lmcache, device) * (caching * spec.tp if cache == "inproc" else 1)


def environment(spec: LMCacheSpec, device: Device) -> dict[str, str]:
    """What LMCache reads inside a worker (in process). The user's own settings win."""
    return {
        "LMCACHE_CHUNK_SIZE": str(spec.chunk_size),
        "LMCACHE_LOCAL_CPU": "True",
        "LMCACHE_MAX_LOCAL_CPU_SIZE": f"{cpu_gb(spec, device):g}",
        **spec.env,
    }


def server_arguments(spec: LMCacheSpec, device: Device, port: int, http_port: int) -> tuple[str, ...]:
    """The command line of the cache server, without the interpreter."""
    return (
        "--host", "127.0.0.1",
        "--port", str(port),
        "--http-host", "127.0.0.1",
        "--http-port", str(http_port),
        "--chunk-size", str(spec.chunk_size),
        "--l1-size-gb", f"{cpu_gb(spec, device):g}",
        "--eviction-policy", spec.env.get("LMCACHE_CACHE_POLICY", "LRU"),
    )  # fmt: skip
