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

from typing import Any, Literal

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


def uses_nixl(config: Connector) -> bool:
    """Whether NIXL is in this config, on its own or inside MultiConnector."""
    inner = config.get("kv_connector_extra_config", {}).get("connectors", [])
    return config["kv_connector"] == "NixlConnector" or any(uses_nixl(one) for one in inner)
