"""CPU workers with NIXL on one core.

vLLM 0.26 binds the thread of each worker that computes to the last core of its NUMA node, for NIXL's sake.
Two workers on one host then take turns on that core, and one that waits for its next call spins there. One
was seen to run for 0.2 ms in 2 s, and chats to take 10 to 32 s. With the patch the thread is bound to no
core, as if vLLM had found no NUMA nodes.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch


def bind_to_no_core(platform: Any) -> None:
    """Name no NUMA nodes: vLLM asks for them only to bind a worker with NIXL to the last core of each.

    Args:
        platform: vLLM's `CpuPlatform`.

    Raises:
        AttributeError: it does not look for NUMA nodes.
    """
    if platform.discover_numa_topology:
        platform.discover_numa_topology = lambda *_: []


def _change(_value: str) -> None:
    from vllm.platforms import cpu

    bind_to_no_core(cpu.CpuPlatform)


PATCH = Patch(
    name="nixl-unbound",
    variable="DYNAMOCTL_NIXL_UNBOUND",
    package="vllm",
    versions=("0.31.0", "0.26.0"),
    upstream="vllm==0.26.0:vllm/distributed/kv_transfer/kv_connector/v1/nixl/base_worker.py:"
    "NixlBaseConnectorWorker.__init__",
    without="all CPU workers with NIXL compute on one core",
    change=_change,
)
