"""The model's weights: whether they fit at all. What the KV cache and activations need comes on top."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.arguments import DEFAULT_UTILIZATION, is_given, utilization
from dynamoctl.planner.plan import DeploymentPlan

# With one of these, what is loaded is not as large as what is on the disk, or is not loaded onto the GPU.
_OTHER_SIZE = ("--quantization", "-q", "--load-format", "--cpu-offload-gb", "--hf-overrides", "--config")
# Numbers of ranks that most models can be divided among, and how full of weights a suggestion makes a GPU.
_RANKS = (2, 4, 8, 16)
_LOAD = 0.9


def _weights(plan: DeploymentPlan, facts: HostFacts, model: ModelFacts) -> list[Finding]:
    if not _matters(plan, model):
        return []
    return _on_gpus(plan, facts, model) if plan.device == "cuda" else _on_cpu(plan, facts, model)


def _on_gpus(plan: DeploymentPlan, facts: HostFacts, model: ModelFacts) -> list[Finding]:
    """The first worker whose share of its smallest GPU is less than a rank's part of the weights."""
    weights_gib = model.weights_gib or 0.0
    for unit in plan.workers:
        gpus = [gpu for gpu in facts.gpus if any(map(gpu.is_named, unit.gpus))]
        share = utilization(unit.argv, DEFAULT_UTILIZATION)
        if not gpus or share is None or is_given(unit.argv, *_OTHER_SIZE):
            continue
        smallest = min(gpus, key=lambda gpu: gpu.memory_mib)
        room_gib = share * smallest.memory_mib / 1024
        ranks = len(unit.gpus)
        if weights_gib / ranks > room_gib:
            need = next((n for n in _RANKS if weights_gib / n <= room_gib * _LOAD), None)
            more = f"give each worker more GPUs (--tp {need}), or " if need else ""
            return [
                Finding(
                    Level.ERROR,
                    f"the weights of {plan.model} take {weights_gib / ranks:.1f} GiB on each of"
                    f" {unit.name}'s GPUs, and it may take {room_gib:.1f} GiB of GPU {smallest.index}",
                    f"{more}take a smaller or quantized model",
                    "vLLM would run out of GPU memory while it loads them",
                )
            ]
    return []


def _on_cpu(plan: DeploymentPlan, facts: HostFacts, model: ModelFacts) -> list[Finding]:
    if any(is_given(unit.argv, *_OTHER_SIZE) for unit in plan.workers):
        return []
    need_gib = (model.weights_gib or 0.0) * len(plan.workers)
    if need_gib <= facts.memory_total_gib:
        return []
    return [
        Finding(
            Level.ERROR,
            f"the weights of {plan.model} take {need_gib:.1f} GiB in {len(plan.workers)} workers, and this"
            f" host has {facts.memory_total_gib:.1f} GiB of memory",
            "take a smaller or quantized model",
            "the kernel would end a worker while it loads them",
        )
    ]


def _ok(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> str:
    return f"{model.weights_gib:.1f} GiB" if _matters(plan, model) else ""


def _matters(plan: DeploymentPlan, model: ModelFacts) -> bool:
    return plan.engine == "vllm" and bool(plan.workers) and model.weights_gib is not None


CHECK = Check("weights", _weights, _ok)
