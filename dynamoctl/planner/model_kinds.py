"""What kind of model it is, as far as a plan depends on it: its layers, what it computes, its adapters."""

from __future__ import annotations

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import ModelFacts
from dynamoctl.planner.architectures import GENERATING, HYBRID, POOLING, POOLS_BY_ENDING
from dynamoctl.planner.arguments import argument, is_given
from dynamoctl.planner.connectors import CacheMode

_POOLING_ARGUMENTS = ("--embedding-worker", "--classify-worker")


def is_hybrid(model: ModelFacts) -> bool:
    """Whether it has layers with a state (mamba, linear attention) beside attention.

    Source: vllm==0.31.0:vllm/config/model.py:is_hybrid.
    """
    config = model.config or {}
    kinds = config.get("layer_types")
    plain = isinstance(kinds, list) and all(kind in ("attention", "full_attention") for kind in kinds)
    return not plain and not HYBRID.isdisjoint(_architectures(model))


def check(spec: DeploymentSpec, model: ModelFacts, cache: CacheMode | None) -> None:
    """A worker could load the model, and `up` would get what it waits for.

    Raises:
        SpecError: it could not.
    """
    if spec.engine != "vllm":
        return
    arguments = (*spec.engine_args, *spec.prefill_args)
    runner = argument(arguments, "--runner")
    pools = runner == "pooling" or (runner != "generate" and any(map(_pools, _architectures(model))))
    if pools or is_given(arguments, *_POOLING_ARGUMENTS):
        raise SpecError(
            f"model: {model.served_name} computes embeddings, scores or classes, and `up` serves completions",
            "take a model that generates text, or run dynamo.vllm with --embedding-worker yourself",
        )
    if (model.config or {}).get("is_encoder_decoder") is True:
        raise SpecError(
            f"model: {model.served_name} has an encoder and a decoder, which vLLM serves without a KV"
            " connector alone, and every worker here has one",
            "take a model with a decoder alone",
        )
    if cache == "inproc" and is_hybrid(model):
        # vllm==0.31.0:vllm/v1/core/kv_cache_utils.py:unify_hybrid_kv_cache_specs; LMCacheConnectorV1 is no
        # SupportsHMA.
        raise SpecError(
            f"lmcache: {model.served_name} has layers with a state (mamba or linear attention) beside"
            " attention, which LMCache in process cannot keep: vLLM would exit after it loaded the weights",
            "take --no-lmcache, or --lmcache-mode mp",
        )
    if cache is not None and is_given(arguments, "--enable-lora"):
        raise SpecError(
            "engine arguments: --enable-lora: LMCache does not tell adapters apart, and would answer one with"
            " the KV cache of another",
            "take --no-lmcache with it; vLLM's own prefix cache does tell them apart",
        )


def _pools(architecture: str) -> bool:
    """Whether vLLM generates no text with it.

    Source: vllm==0.31.0:vllm/config/model.py:_get_default_runner_type.
    """
    if architecture in POOLING or architecture in GENERATING:
        return architecture in POOLING
    return next((pools for ending, pools in POOLS_BY_ENDING if architecture.endswith(ending)), False)


def _architectures(model: ModelFacts) -> frozenset[str]:
    names = (model.config or {}).get("architectures")
    return (
        frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()
    )
