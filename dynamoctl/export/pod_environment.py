"""A pod's environment: what of a unit's holds in a cluster, and what does not, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamoctl.errors import SpecError
from dynamoctl.patches import compile_cache_name, end_engine, lmcache_server, packed_kv, wake_up
from dynamoctl.planner.plan import Unit
from dynamoctl.planner.secrets import redact

_OPERATOR = "the operator has its own"
_LOOPBACK = "it keeps traffic on the loopback; pods could not reach each other"
_OWN_NETWORK = "a pod has its own network"
_SUPERVISOR = "for dynamoctl's supervisor"
# Of what the planner gives a unit: what no pod gets.
DROPPED = {
    "DYN_DISCOVERY_BACKEND": _OPERATOR,
    "DYN_FILE_KV": _OPERATOR,
    "DYN_REQUEST_PLANE": _OPERATOR,
    "DYN_EVENT_PLANE": _OPERATOR,
    "DYN_NAMESPACE": _OPERATOR,
    "DYN_SYSTEM_PORT": _OPERATOR,
    "DYN_TCP_RPC_HOST": _LOOPBACK,
    "DYN_SYSTEM_HOST": _LOOPBACK,
    "DYN_TCP_RESPONSE_STREAM_HOST": _LOOPBACK,
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
    "UCX_NET_DEVICES": _LOOPBACK,
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "the pod's address, where Dynamo does not find it out",
    "VLLM_NIXL_SIDE_CHANNEL_PORT": _OWN_NETWORK,
    "VLLM_PORT": _OWN_NETWORK,
    "CUDA_VISIBLE_DEVICES": "nvidia.com/gpu in the limits is their number",
    "CUDA_DEVICE_ORDER": "nvidia.com/gpu in the limits is their number",
    "DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS": "other pods stay when one leaves",
    "DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS": "other pods stay when one leaves",
    "SPT_NOENV": _SUPERVISOR,
    "DYN_LOG": _SUPERVISOR,
    "DYN_SKIP_SGLANG_LOG_FORMATTING": _SUPERVISOR,
}
# The rest of it, which pods get.
KEPT = (
    "HF_HUB_OFFLINE",
    "PYTHONHASHSEED",
    "PYTHONUNBUFFERED",
    "LMCACHE_TRACK_USAGE",
    "LMCACHE_DISABLE_BANNER",
    "LMCACHE_CHUNK_SIZE",
    "LMCACHE_LOCAL_CPU",
    "LMCACHE_MAX_LOCAL_CPU_SIZE",
    "LMCACHE_LOCAL_DISK",
    "LMCACHE_MAX_LOCAL_DISK_SIZE",
    "LMCACHE_REMOTE_URL",
    "NCCL_NVLS_ENABLE",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST",
    "NVSHMEM_DISABLE_NVLS",
    compile_cache_name.PATCH.variable,
    wake_up.PATCH.variable,
    end_engine.PATCH.variable,
    packed_kv.PATCH.variable,
    lmcache_server.PATCH.variable,
)


def shared(units: Sequence[Unit], own: Mapping[str, str]) -> dict[str, str]:
    """What all pods get alike.

    Args:
        units: one of each component.
        own: the environment that the user gives every unit; kept whatever it is.
    """
    first, *others = [_kept(unit, own) for unit in units]
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}


def alone(unit: Unit, common: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """What a unit's pod gets besides the environment that all have in common."""
    return {name: value for name, value in _kept(unit, own).items() if common.get(name) != value}


def variables(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """An environment as a pod has it.

    Raises:
        SpecError: a value is a secret.
    """
    hidden = next((name for name, value in env.items() if redact(value, name) != value), None)
    if hidden:
        raise SpecError(
            f"env: {hidden} is a secret, and a manifest is no place for one",
            "put it into a Secret of the cluster under this key, and name that: --secret NAME",
        )
    return [{"name": name, "value": value} for name, value in env.items()]


def _kept(unit: Unit, own: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in unit.env.items() if name in own or name not in DROPPED}
