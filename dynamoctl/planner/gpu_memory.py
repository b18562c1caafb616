"""How much of a shared GPU each worker takes for its KV cache."""

from __future__ import annotations

from dynamoctl.errors import SpecError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.arguments import argument, utilization
from dynamoctl.planner.topology import Placement

_GIB = 1024**3
# Beside weights and KV cache: CUDA's context, activations of a full batch, graphs, NIXL's buffers.
_OVERHEAD_GIB = 4.0
_LEAST_GIB = 0.25


def utilization_arguments(place: Placement) -> tuple[str, ...]:
    """A sharer's part of the GPU, as vLLM takes it."""
    if place.memory_share is None:
        return ()
    return ("--gpu-memory-utilization", f"{place.memory_share:g}")


def kv_cache_arguments(
    place: Placement, facts: HostFacts, model: ModelFacts, tp: int, user: tuple[str, ...]
) -> tuple[str, ...]:
    """The KV cache's size in bytes, for sharers that start together.

    vLLM finds the size by a measurement of free memory; two that measure at once on one GPU take
    each other's memory for their own. With a size given it does not measure.

    Args:
        user: the user's own arguments for this worker, which win.

    Raises:
        SpecError: the size of the weights or of the GPU is unknown, or too little is left beside them.
    """
    if place.memory_share is None or argument(user, "--kv-cache-memory-bytes") is not None:
        return ()
    sizes = [gpu.memory_mib / 1024 for gpu in facts.gpus if any(map(gpu.is_named, place.gpus))]
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
    return ("--kv-cache-memory-bytes", str(int(left * _GIB)))
