"""Hosts, models and specs for the planner's tests: plain data, the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.facts import Gpu, HostFacts, Interface, ModelFacts
from dynamoctl.planner import make_plan
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.tested_versions import INSTALLED, SETS

HOME = "/home/user/.local/state/dynamoctl/deployments/default"
HUB_MODEL = ModelFacts(path="Qwen/Qwen3-0.6B", served_name="Qwen/Qwen3-0.6B", weights_gib=1.4)
FOLDER_MODEL = ModelFacts(
    path="/home/user/.cache/dynamoctl/smollm2-135m-instruct",
    served_name="smollm2-135m-instruct",
    folder="/home/user/.cache/dynamoctl/smollm2-135m-instruct",
    builtin=True,
    weights_gib=0.26,
)
INTERFACES = (
    Interface("lo", ("127.0.0.1",), ipv6=True),
    Interface("eth0", ("10.0.0.1", "10.0.0.9"), ipv6=True),
    Interface("eth0:dyn", ("10.0.0.7",)),
    Interface("ib0", ("10.1.0.1",), rdma=("mlx5_0:1",)),
)
ETCD = "http://10.0.0.1:2379"
VERSIONS = dict(INSTALLED)
# The newest with which LMCache is in the engine's process on GPUs.
GPU_VERSIONS = dict(next(one.versions for one in SETS if one.name == "1.4"))


def uuid(index: int) -> str:
    return f"GPU-{index:08x}-0000-0000-0000-000000000000"


def host(
    gpus: int = 0,
    cores: int = 2,
    visible: tuple[str, ...] | None = None,
    free_ports: tuple[int, ...] = tuple(range(20000, 20400)),
    versions: Mapping[str, str] | None = None,
    builds_kernels: bool = True,
) -> HostFacts:
    """A host with the installed set of versions; on GPUs, with the set 1.4."""
    if versions is None:
        versions = GPU_VERSIONS if gpus else VERSIONS
    return HostFacts(
        cores=tuple(range(cores)),
        memory_total_gib=256.0,
        memory_available_gib=200.0,
        gpus=tuple(Gpu(i, uuid(i), "NVIDIA H100 80GB HBM3", 81559) for i in range(gpus)),
        visible_gpus=visible,
        free_ports=free_ports,
        python="python",
        home=HOME,
        versions=versions,
        interfaces=INTERFACES,
        way_out="10.0.0.1",
        builds_kernels=builds_kernels,
    )


def spec(**fields: Any) -> DeploymentSpec:
    return DeploymentSpec.model_validate(fields)


def plan(
    host_gpus: int = 0,
    /,
    *,
    cores: int = 2,
    visible: tuple[str, ...] | None = None,
    model_facts: ModelFacts | None = None,
    versions: Mapping[str, str] | None = None,
    builds_kernels: bool = True,
    **fields: Any,
) -> DeploymentPlan:
    """The plan for a spec with these fields on a host with so many GPUs."""
    model = model_facts or (HUB_MODEL if host_gpus else FOLDER_MODEL)
    facts = host(host_gpus, cores, visible, versions=versions, builds_kernels=builds_kernels)
    return make_plan(spec(**fields), facts, model)
