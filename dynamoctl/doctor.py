"""Would this plan run on this host? Each finding says what, why it matters, and the mend.

`up` runs these checks before it starts anything.
"""

from __future__ import annotations

import os
import resource
from importlib import metadata, util

from dynamoctl import storage, vllm_plugin
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host import models, ports
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.storage import Finding

# What LMCache may take of the memory that is there before it is worth a warning: the engine, the page
# cache and the frontend live in the rest.
MEMORY_WARNING = 0.7
# Open files of one process. vLLM asks for 65,535; an idle worker on a CPU has some hundred.
DESCRIPTORS_WARNING = 4096
DESCRIPTORS_ERROR = 512


def check(plan: DeploymentPlan, facts: HostFacts, model: ModelFacts) -> list[Finding]:
    """Every finding for this plan on this host; errors first."""
    findings = [
        *_packages(plan),
        *_gpus(plan, facts),
        *_http_port(plan),
        *_model(model),
        *_memory(plan, facts),
        *_descriptors(),
        *storage.check(plan),
        *_plugin(plan),
    ]
    return sorted(findings, key=lambda finding: finding.level)


def require(findings: list[Finding]) -> list[str]:
    """Raise on the first error; give back the warnings as lines.

    Raises:
        PreflightError: this host cannot run the plan.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = [f"also: {other.what}: {other.mend}" for other in errors[1:]]
        raise PreflightError(errors[0].what, "\n".join([errors[0].mend, *more]))
    return [f"{finding.what}: {finding.mend}" for finding in findings]


def _packages(plan: DeploymentPlan) -> list[Finding]:
    """The engine is an extra; the planner works without it."""
    needed = {"ai-dynamo": "dynamo"}
    if plan.engine == "vllm":
        needed["vllm"] = "vllm"
        if plan.lmcache is not None:
            needed["lmcache"] = "lmcache"
        needed["nixl"] = "nixl"
    missing = [package for package, module in needed.items() if util.find_spec(module) is None]
    if not missing:
        return []
    extra = "gpu" if plan.device == "cuda" else "cpu"
    return [
        Finding(
            "error",
            f"not installed here: {', '.join(missing)}",
            f"install dynamoctl with its extra {extra}: uv sync --extra {extra} in its folder",
        )
    ]


def _descriptors() -> list[Finding]:
    """The supervisor raises the soft limit as far as the hard one allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= DESCRIPTORS_WARNING:
        return []
    return [
        Finding(
            "error" if most < DESCRIPTORS_ERROR else "warning",
            f"a process may have no more than {most} files and sockets open (ulimit -Hn)",
            "raise it to 65535: in /etc/security/limits.conf (nofile), with LimitNOFILE in a systemd unit, or"
            " with docker run --ulimit nofile=65535",
        )
    ]


def _gpus(plan: DeploymentPlan, facts: HostFacts) -> list[Finding]:
    if plan.device != "cuda":
        return []
    if not facts.gpus:
        return [
            Finding(
                "error",
                "the plan is for GPUs, but NVML finds no NVIDIA driver or GPU here",
                "install the driver (nvidia-smi must work), or serve on the CPU with --device cpu",
            )
        ]
    known: set[int | str] = {gpu.index for gpu in facts.gpus} | {gpu.uuid for gpu in facts.gpus}
    findings = []
    for gpu in sorted({str(gpu) for unit in plan.units for gpu in unit.gpus if gpu not in known}):
        if gpu.startswith("MIG-"):
            continue  # NVML lists MIG instances below their GPU; CUDA finds them by itself
        there = ", ".join(str(one.index) for one in facts.gpus)
        findings.append(
            Finding(
                "error",
                f"GPU {gpu} is not there; this host has {there}",
                "name others with --gpus, or one twice to share it (as in --gpus 0,0)",
            )
        )
    return findings


def _http_port(plan: DeploymentPlan) -> list[Finding]:
    why = ports.can_listen(plan.host, plan.port)
    if why is None:
        return []
    if "in use" in why:
        return [
            Finding(
                "error",
                f"HTTP port {plan.port} is taken by {ports.holder(plan.port)}",
                "choose another with --port, or end that process",
            )
        ]
    return [
        Finding(
            "error",
            f"cannot listen on {plan.host} port {plan.port}: {why}",
            "choose another with --host and --port",
        )
    ]


def _model(model: ModelFacts) -> list[Finding]:
    try:
        models.require(model)
    except PreflightError as error:
        return [Finding("error", error.message, error.hint)]
    return []


def _memory(plan: DeploymentPlan, facts: HostFacts) -> list[Finding]:
    """LMCache takes its CPU memory for each rank in process (pinned, up front), once with a server."""
    wanted = plan.lmcache_cpu_gib
    if not wanted:
        return []
    have = facts.memory_available_gib
    what = f"LMCache wants {wanted:g} GiB of CPU memory; {have:.1f} GiB are available"
    mend = "take less with --lmcache-cpu-gb"
    if wanted > have:
        return [Finding("error", what, mend)]
    if wanted > MEMORY_WARNING * have:
        return [Finding("warning", what, mend)]
    return []


def _plugin(plan: DeploymentPlan) -> list[Finding]:
    """Where the plan needs our vLLM plugin, vLLM must find it and must be allowed to load it."""
    lost = {
        vllm_plugin.PACKED_KV: "LMCache gives back wrong values",
        vllm_plugin.VARIABLE: "NIXL stalls between CPU workers",
        vllm_plugin.HEARTBEAT: "a worker that loses LMCache's server stays without",
    }
    missed = [why for variable, why in lost.items() if any(variable in unit.env for unit in plan.units)]
    if not missed:
        return []
    allowed = os.environ.get("VLLM_PLUGINS")
    if not metadata.entry_points(group="vllm.general_plugins", name="dynamoctl"):
        mend = "install dynamoctl as a package (./bootstrap does)"
    elif allowed is not None and "dynamoctl" not in allowed.split(","):
        mend = "add dynamoctl to VLLM_PLUGINS, or unset it"
    else:
        return []
    wrong = lost[vllm_plugin.PACKED_KV] in missed
    what = f"vLLM will not load dynamoctl's plugin: {', and '.join(missed)}"
    return [Finding("error" if wrong else "warning", what, mend)]
