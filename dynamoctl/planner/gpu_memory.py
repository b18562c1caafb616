"""How much of a shared GPU each worker takes for its KV cache."""

from __future__ import annotations

from dynamoctl.errors import SpecError
from dynamoctl.planner import gpu_names
from dynamoctl.planner.arguments import argument, utilization
from dynamoctl.planner.context import UnitContext

_GIB = 1024**3
# Beside weights and KV cache: CUDA's context, activations of a full batch, graphs, NIXL's buffers.
_OVERHEAD_GIB = 4.0
_LEAST_GIB = 0.25


def has_own_size(user_arguments: tuple[str, ...]) -> bool:
    """Whether the user says the size of the KV cache."""
    return argument(user_arguments, "--kv-cache-memory-bytes") is not None


def kv_cache_bytes(unit: UnitContext) -> int:
    """The size of the KV cache of a worker that shares a GPU and starts together with the others.

    In bytes: the worker's share of the smallest of its GPUs, less the weights of a rank and what the engine
    needs besides. Rule `size-instead-of-measurement`.

    Raises:
        SpecError: the size of the weights or of the GPU is unknown, or too little is left beside them.
    """
    place, model, tp, user = unit.worker, unit.plan.model, unit.spec.tp, unit.user_arguments
    assert place.memory_share is not None
    matches = [gpu_names.find(gpu, unit.plan.facts) for gpu in place.gpus]
    sizes = [match.memory_mib / 1024 for match in matches if match.memory_mib]
    if model.weights_gib is None or not sizes:
        why = "NVML does not list that GPU here" if not sizes else f"the weights of {model.path} are not here"
        raise SpecError(
            f"gpus: {place.name} shares a GPU and starts together with the other, so its KV cache needs"
            f" a size; that cannot be worked out, because {why}",
            "start them in turn (--start ordered), or give --kv-cache-memory-bytes after --",
        )
    share = utilization(user, place.memory_share) or place.memory_share
    total = min(sizes)
    left = share * total - model.weights_gib / tp - _OVERHEAD_GIB
    if left < _LEAST_GIB:
        raise SpecError(
            f"gpus: a {share:.0%} share of {total:.0f} GiB leaves {place.name} no room for a KV cache"
            f" beside {model.weights_gib / tp:.1f} GiB of weights and {_OVERHEAD_GIB:g} GiB for the engine",
            "give it a GPU of its own, or take a smaller model",
        )
    return int(left * _GIB)
