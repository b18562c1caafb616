"""How large a token's KV cache is, from a model's config.json, and how many fit into LMCache's memory.

2 x layers x KV heads x head size x bytes of an element; with multi-head latent attention (MLA), layers x
(latent + rotary) x bytes. KV heads are divided among the ranks of a worker, and a rank has at least one.

Sources: vllm==0.31.0:vllm/v1/kv_cache_interface.py:FullAttentionSpec and MLAAttentionSpec;
vllm==0.31.0:vllm/config/model.py:get_num_kv_heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import ModelFacts
from dynamoctl.planner.arguments import argument
from dynamoctl.planner.connectors import CacheMode, Device

_GIB = 1024**3
# Bytes of an element, by the names that config.json and --kv-cache-dtype have for it.
_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


def check_heads(spec: DeploymentSpec, model: ModelFacts) -> None:
    """Every rank of a worker takes the same number of attention heads.

    Source: vllm==0.31.0:vllm/config/model.py:verify_with_parallel_config.

    Raises:
        SpecError: the heads of this model cannot be divided among --tp ranks.
    """
    heads = _number(text_config(model.config or {}), "num_attention_heads")
    if spec.engine == "vllm" and heads and heads % spec.tp:
        ways = [str(tp) for tp in range(1, heads + 1) if heads % tp == 0 and tp <= 16]
        raise SpecError(
            f"tp: {model.served_name} has {heads} attention heads, which {spec.tp} ranks cannot share",
            f"take --tp {', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else "take --tp 1",
        )


def dtype_arguments(model: ModelFacts, device: Device) -> tuple[str, ...]:
    """The number format that a model is served in, if it is not its own. Rule `exact-small-model`."""
    return ("--dtype", "float32") if model.builtin and device == "cpu" else ()


def tokens(
    gib: float, spec: DeploymentSpec, model: ModelFacts, cache: CacheMode, device: Device
) -> int | None:
    """How many tokens' KV cache fit into the CPU memory of one holder; None if the model's shape is unknown.

    Args:
        gib: the memory of a holder: of a rank in process, of the host with a server.
    """
    if not gib or model.config is None:
        return None
    size = bytes_per_token(model.config, spec.tp, (*dtype_arguments(model, device), *spec.engine_args))
    if size is None:
        return None
    # A server gets the parts of all ranks; with latent attention all have the same, and one stores it.
    parts = spec.tp if cache == "mp" and not is_latent(text_config(model.config)) else 1
    return int(gib * _GIB // (size * parts))


def bytes_per_token(config: Mapping[str, Any], tp: int, engine_args: tuple[str, ...] = ()) -> int | None:
    """Bytes of one token's KV cache on one rank; None if the config does not say."""
    text = text_config(config)
    layers = _number(text, "num_hidden_layers")
    width = _element(text, config, engine_args)
    if layers is None or width is None or not _is_plain(text):
        return None
    if is_latent(text):
        rotary = _number(text, "qk_rope_head_dim") or 0
        return layers * (int(text["kv_lora_rank"]) + rotary) * width
    heads = _number(text, "num_attention_heads")
    kv_heads = _number(text, "num_key_value_heads") or heads
    hidden = _number(text, "hidden_size")
    size = _number(text, "head_dim") or (hidden // heads if hidden and heads else None)
    if kv_heads is None or size is None:
        return None
    return 2 * layers * max(1, -(-kv_heads // tp)) * size * width


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part: one that also sees has it in a table of its own."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def is_latent(text: Mapping[str, Any]) -> bool:
    """Whether a language model has latent attention (MLA)."""
    return _number(text, "kv_lora_rank") is not None


def _is_plain(text: Mapping[str, Any]) -> bool:
    """Whether every layer keeps keys and values of every token (no state-space or linear layers)."""
    kinds = text.get("layer_types") or []
    return all(kind in ("full_attention", "sliding_attention", "chunked_attention") for kind in kinds)


def _element(text: Mapping[str, Any], config: Mapping[str, Any], engine_args: tuple[str, ...]) -> int | None:
    chosen = argument(engine_args, "--kv-cache-dtype")
    if chosen and chosen.startswith("fp8"):
        return 1
    if chosen in _BYTES:
        return _BYTES[chosen]
    chosen = argument(engine_args, "--dtype")
    names = (chosen, *(one.get(key) for one in (text, config) for key in ("dtype", "torch_dtype")))
    return next((_BYTES[name] for name in names if name in _BYTES), None)


def _number(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
