"""How large a token's KV cache is, from a model's config.json, and how many fit into LMCache's memory.

2 x layers x KV heads x head size x bytes of an element; with multi-head latent attention, layers x (latent +
rotary) x bytes. KV heads are divided among the ranks of a worker, and a rank has one at least.
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
    """Each rank of a worker takes as many attention heads (vLLM's `verify_with_parallel_config`).

    Raises:
        SpecError: they cannot be divided so.
    """
    heads = _number(_text(model.config or {}), "num_attention_heads")
    if spec.engine == "vllm" and heads and heads % spec.tp:
        ways = [str(tp) for tp in range(1, heads + 1) if heads % tp == 0 and tp <= 16]
        raise SpecError(
            f"tp: {model.served_name} has {heads} attention heads, which {spec.tp} ranks cannot share",
            f"take --tp {', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else "take --tp 1",
        )


def dtype_arguments(model: ModelFacts, device: Device) -> tuple[str, ...]:
    """The number format that a model is served in, where it is not its own.

    The built-in model is small, and its likeliest tokens are close to each other: 25.36 and 25.26 at the
    first token of the capital of France. bfloat16 rounds by more than that, and on each kind of CPU (AVX-512,
    AMX) in its own way. On one with AMX the answer was not Paris; in float32 it is. Measured there: 1.4 times
    the time for a token.
    """
    return ("--dtype", "float32") if model.builtin and device == "cpu" else ()


def tokens(
    gib: float, spec: DeploymentSpec, model: ModelFacts, cache: CacheMode, device: Device
) -> int | None:
    """How many tokens' KV cache fit into the CPU memory of one holder; None where it is not known.

    Args:
        gib: the memory of a holder: of a rank in process, of the host with a server.
    """
    if not gib or model.config is None:
        return None
    size = bytes_per_token(model.config, spec.tp, (*dtype_arguments(model, device), *spec.engine_args))
    if size is None:
        return None
    # A server gets the parts of all ranks; with latent attention all have the same, and one stores it.
    parts = spec.tp if cache == "mp" and not _is_latent(_text(model.config)) else 1
    return int(gib * _GIB // (size * parts))


def bytes_per_token(config: Mapping[str, Any], tp: int, engine_args: tuple[str, ...] = ()) -> int | None:
    """Bytes of one token's KV cache on one rank; None where the config does not say."""
    text = _text(config)
    layers = _number(text, "num_hidden_layers")
    width = _element(text, config, engine_args)
    if layers is None or width is None or not _is_plain(text):
        return None
    if _is_latent(text):
        rotary = _number(text, "qk_rope_head_dim") or 0
        return layers * (int(text["kv_lora_rank"]) + rotary) * width
    heads = _number(text, "num_attention_heads")
    kv_heads = _number(text, "num_key_value_heads") or heads
    hidden = _number(text, "hidden_size")
    size = _number(text, "head_dim") or (hidden // heads if hidden and heads else None)
    if kv_heads is None or size is None:
        return None
    return 2 * layers * max(1, -(-kv_heads // tp)) * size * width


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part: one that also sees has it in a table of its own."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _is_latent(text: Mapping[str, Any]) -> bool:
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
