"""Which KV connector each role gets, and the rules that make connectors fit together.

| role | LMCache on | LMCache off |
| --- | --- | --- |
| aggregated worker | LMCache's connector | NixlConnector |
| decode worker | NixlConnector: only for KV transfer | NixlConnector |
| prefill worker | MultiConnector of [LMCache's connector, NixlConnector] | NixlConnector |

All are `kv_both`. LMCache's connector is `LMCacheConnectorV1` in process and `LMCacheMPConnector`
beside a cache server; what that server does not bring is computed again. Each rule below stands with its
reason; a new one has its home here.
"""

from __future__ import annotations

from typing import Any, Literal

from dynamoctl.planner.plan import Role

Connector = dict[str, Any]
CacheMode = Literal["inproc", "mp"]
Device = Literal["cuda", "cpu"]


# How long a worker waits for the cache server, seconds. By LMCache's own default, 300, a worker whose
# server was killed answers nobody for five minutes.
SERVER_TIMEOUT_S = 15.0
SERVER_HEARTBEAT_S = 3.0

# LMCache says that it has a prompt, and then does not bring it: its store has died in between, or takes
# longer than LMCache waits. By vLLM's default (0.26: "fail") such a request fails, and beside a cache server
# the engine with it. In process the default stays: there vLLM 0.26 would go on with a wrong answer (seen on
# an H100; https://github.com/vllm-project/vllm/issues/49250). Decode keeps it, too: what it computed in
# prefill's place would hold up the answers of all others.
_COMPUTED_AGAIN = {"kv_load_failure_policy": "recompute"}


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
    return config | _COMPUTED_AGAIN if cache == "mp" else config


def nixl(device: Device) -> Connector:
    """NIXL hands KV blocks from one worker to another."""
    connector: Connector = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    if device == "cpu":
        # NIXL's default buffer is CUDA memory, which a CPU worker does not have.
        connector["kv_buffer_device"] = "cpu"
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


def hybrid_cache_arguments(role: Role) -> tuple[str, ...]:
    """The hybrid KV cache manager is off on both sides of a transfer.

    LMCache's connector inside MultiConnector turns it off on prefill, a plain NixlConnector keeps
    it on, and the flag is part of NIXL's compatibility hash: the two sides would refuse each other.
    """
    return ("--disable-hybrid-kv-cache-manager",) if role in ("decode", "prefill") else ()


def side_channel_environment(port: int) -> dict[str, str]:
    """NIXL's handshake listens at this port and, with tensor parallelism, one per rank from it on.

    It is set because vLLM's default (5600) is the same for every worker. vLLM takes the port for a part of
    what it compiles: `dynamoctl.patches.compile_cache_name`. (The host: `planner.discovery`.)
    """
    return {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(port)}


def uses_nixl(config: Connector) -> bool:
    """Whether NIXL is in this config, on its own or inside MultiConnector."""
    inner = config.get("kv_connector_extra_config", {}).get("connectors", [])
    return config["kv_connector"] == "NixlConnector" or any(uses_nixl(one) for one in inner)
