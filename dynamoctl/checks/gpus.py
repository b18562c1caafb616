"""The GPUs: the driver, whether the named ones exist, and what is free on them."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import Gpu, HostFacts, ModelFacts, visible_entries
from dynamoctl.host import gpus, processes
from dynamoctl.planner import gpu_names
from dynamoctl.planner.arguments import DEFAULT_UTILIZATION, utilization
from dynamoctl.planner.plan import DeploymentPlan

# The CUDA version that torch 2.11's build for CUDA 13 needs of the driver, as NVML writes it.
CUDA_NEEDED = 13000
# What is left over when a smaller share of a GPU is suggested, and the smallest that is suggested.
_SPARE_SHARE = 0.02
_LEAST_SHARE = 0.05


def _driver(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if not _uses_gpus(plan, facts):
        return []
    driver, cuda = gpus.driver()
    if cuda is None or cuda >= CUDA_NEEDED:
        return []
    return [
        Finding(
            Level.ERROR,
            f"the NVIDIA driver {driver} is for CUDA {cuda // 1000}.{cuda % 1000 // 10}",
            "install driver version 580 or newer",
            f"the engine's torch is built for CUDA {CUDA_NEEDED // 1000}",
        )
    ]


def _driver_ok(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> str:
    return gpus.driver()[0] if _uses_gpus(plan, facts) else ""


def _gpus(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.device != "cuda":
        return [Finding(Level.WARNING, note.what, note.fix) for note in plan.notes]
    if not facts.gpus:
        return [
            Finding(
                Level.ERROR,
                "the plan needs GPUs, but NVML finds no NVIDIA driver or GPU here",
                "install the driver (nvidia-smi must work), or serve on the CPU with --device cpu",
            )
        ]
    visible = visible_entries(facts.visible_gpus) or ()
    missing = {name for unit in plan.units for name in unit.gpus if gpu_names.find(name, facts).gpu is None}
    return [
        Finding(
            Level.ERROR,
            f"GPU {name} is not there; this host has {_names(name, facts)}",
            "choose others with --gpus, or name one twice to share it (--gpus 0,0)"
            + ("; or fix CUDA_VISIBLE_DEVICES, which names it" if str(name) in visible else ""),
        )
        for name in sorted(missing, key=str)
    ]


def _names(like: int | str, facts: HostFacts) -> str:
    """The host's GPUs or MIG instances, named in the way that was tried."""
    if isinstance(like, int):
        names = [str(gpu.index) for gpu in facts.gpus]
    elif like.startswith("MIG-"):
        names = [instance.uuid for gpu in facts.gpus for instance in gpu.instances or ()]
    else:
        names = [gpu.uuid for gpu in facts.gpus]
    return ", ".join(names) or "no MIG instances"


def _gpus_ok(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> str:
    if not _uses_gpus(plan, facts):
        return ""
    return ", ".join(
        f"{gpu.index}: {gpu.name}" + (" (a MIG instance)" if gpu.instances else "")
        for gpu in facts.gpus
        if _is_used(gpu, plan)
    )


def _gpu_memory(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """vLLM exits at startup if less than its share of a GPU is free.

    Source: vllm==0.26.0:vllm/v1/worker/utils.py:request_memory.
    """
    if not _uses_gpus(plan, facts):
        return []
    findings = []
    with gpus.session():
        used_mib, mib_by_process = gpus.memory_used(), gpus.memory_by_process()
    for gpu in facts.gpus:
        if gpu.instances is not None:
            continue  # how much of it is free says nothing about an instance
        workers = [unit for unit in plan.workers if any(map(gpu.is_named, unit.gpus))]
        shares = [utilization(unit.argv, DEFAULT_UTILIZATION) for unit in workers]
        free_mib = gpu.memory_mib - used_mib.get(gpu.index, 0)
        share = sum(filter(None, shares))
        if not workers or None in shares or share * gpu.memory_mib <= free_mib:
            continue
        holders = [
            f"process {pid} ({processes.command_line(pid)})" for pid in mib_by_process.get(gpu.index, {})
        ]
        end = (
            f"end {', '.join(holders)}"
            if holders
            else "end the processes that hold it (none is visible here)"
        )
        fitting_share = max(_LEAST_SHARE, free_mib / gpu.memory_mib / len(workers) - _SPARE_SHARE)
        findings.append(
            Finding(
                Level.ERROR,
                f"GPU {gpu.index} has {free_mib / 1024:.1f} of {gpu.memory_mib / 1024:.1f} GiB free, and"
                f" {' and '.join(unit.name for unit in workers)} would take {share:.0%} of it",
                f"{end}; or choose another GPU with --gpus; or take less: -- --gpu-memory-utilization"
                f" {fitting_share:.2f}",
                "vLLM checks at startup how much is free, and exits if that is too little",
            )
        )
    return findings


def _gpu_memory_ok(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> str:
    names = {name for unit in plan.workers for name in unit.gpus}
    if not _uses_gpus(plan, facts) or any(gpu_names.find(name, facts).is_mig for name in names):
        return ""
    return "what the workers will take is free"


def _uses_gpus(plan: DeploymentPlan, facts: HostFacts) -> bool:
    """Whether the plan is for GPUs and this host has some."""
    return plan.device == "cuda" and bool(facts.gpus)


def _is_used(gpu: Gpu, plan: DeploymentPlan) -> bool:
    names = {name for unit in plan.units for name in unit.gpus}
    return any(gpu.is_named(name) or gpu.instances_named(name) for name in names)


DRIVER = Check("driver", _driver, _driver_ok)
GPUS = Check("GPUs", _gpus, _gpus_ok)
GPU_MEMORY = Check("GPU memory", _gpu_memory, _gpu_memory_ok, used_while_up=True)
