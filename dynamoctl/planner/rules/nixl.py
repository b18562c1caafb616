"""Rules for KV transfers with NIXL."""

from __future__ import annotations

from dynamoctl.planner import discovery
from dynamoctl.planner.connectors import CPU_BUFFER, uses_nixl
from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.rules.rule import (
    GPUS_ONLY,
    LOOPBACK_ONLY,
    OWN_NETWORK,
    WORKERS,
    Condition,
    InPod,
    Rule,
)


def _with_nixl(unit: UnitContext) -> bool:
    return unit.connector is not None and uses_nixl(unit.connector)


def _between_cpu_hosts(unit: UnitContext) -> bool:
    return _with_nixl(unit) and unit.plan.device == "cpu" and discovery.between_hosts(unit.spec)


WITH_NIXL = Condition("with NIXL in its connector", _with_nixl)

SIDE_CHANNEL = (
    Rule(
        name="own-side-channel",
        sets="VLLM_NIXL_SIDE_CHANNEL_PORT",
        value=lambda unit: str(unit.ports["nixl"]),
        why="The handshake of NIXL listens at this port, and with tensor parallelism at one port per rank"
        " from it on. vLLM's default, 5600, is the same for every worker.",
        without="Two workers on one host want the same port.",
        source="vllm==0.31.0:vllm/envs.py:VLLM_NIXL_SIDE_CHANNEL_PORT",
        tested=("vllm", "nixl"),
        roles=WORKERS,
        when=WITH_NIXL,
        in_pod=OWN_NETWORK,
        instead="each worker has a port of its own, which the plan chooses",
    ),
)

TRANSFER = (
    Rule(
        name="side-channel-address",
        sets="VLLM_NIXL_SIDE_CHANNEL_HOST",
        value=lambda unit: unit.plan.at.host,
        why="Dynamo does not find it out for NIXL inside MultiConnector, only for a plain NixlConnector, and"
        " then takes the address of the default route.",
        without="Inside MultiConnector, vLLM uses `localhost`, which other hosts cannot reach; a plain"
        " NixlConnector listens on the network.",
        source="ai-dynamo==1.6.1:dynamo/vllm/args.py:_uses_nixl_connector",
        tested=("ai-dynamo", "vllm", "nixl"),
        roles=WORKERS,
        when=WITH_NIXL,
        in_pod=InPod("changed", "the pod's address, where Dynamo does not find it out", reserved=True),
    ),
    Rule(
        name="transfer-interfaces",
        sets="UCX_NET_DEVICES",
        value=lambda unit: ",".join(unit.plan.at.devices),
        why="UCX listens on every interface, and lets a peer read and write the memory that it registered. On"
        " one host, blocks go by CUDA IPC or shared memory, and the network device is for the handshake.",
        without="Any host that reaches this one can connect to UCX.",
        source="nixl-cu13==1.4.1:nixl_cu13.libs/ucx/libuct_ib.so.0.0.0:NET_DEVICES",
        tested=("nixl",),
        roles=WORKERS,
        when=WITH_NIXL,
        in_pod=LOOPBACK_ONLY,
        override_expected=True,
    ),
    Rule(
        name="tcp-between-cpu-hosts",
        sets="UCX_TLS",
        value="tcp",
        why="Two containers on one machine can share /dev/shm without the rest that shared memory needs.",
        without="UCX can take shared memory between such containers, which does not work there.",
        source="measured with nixl==1.3.2",
        tested=("nixl",),
        roles=WORKERS,
        when=Condition("with NIXL between CPU workers of two hosts", _between_cpu_hosts),
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
    Rule(
        name="cpu-transfer-buffer",
        sets="kv_transfer_config.kv_buffer_device",
        value=CPU_BUFFER,
        why="NIXL's default buffer is CUDA memory, which a CPU worker does not have.",
        without="The worker exits at the start.",
        source="vllm==0.31.0:vllm/config/kv_transfer.py:kv_buffer_device",
        tested=("vllm", "nixl"),
        roles=WORKERS,
        when=Condition("with NIXL on a CPU", lambda unit: _with_nixl(unit) and unit.plan.device == "cpu"),
        in_pod=GPUS_ONLY,
    ),
)
