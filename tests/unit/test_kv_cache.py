"""Bytes of a token's KV cache, against what is known of some models."""

from __future__ import annotations

from typing import Any

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.facts import ModelFacts
from dynamoctl.planner import kv_cache

from .hosts import plan

QWEN3_06B = {
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "torch_dtype": "bfloat16",
}
LLAMA_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("config", "tp", "arguments", "size"),
    [
        (QWEN3_06B, 1, (), 2 * 28 * 8 * 128 * 2),
        (LLAMA_8B, 1, (), 131072),  # 128 KiB, as vLLM has it too
        (LLAMA_8B, 4, (), 131072 // 4),
        (LLAMA_8B, 16, (), 131072 // 8),  # a rank has one KV head at least
        (LLAMA_8B, 1, ("--kv-cache-dtype", "fp8_e4m3"), 131072 // 2),
        (LLAMA_8B, 1, ("--dtype=float32",), 131072 * 2),
        (LLAMA_8B, 1, ("--kv-cache-dtype", "auto"), 131072),
        (DEEPSEEK_V3, 8, (), 61 * 576 * 2),  # latent: the same on each rank
        ({"text_config": LLAMA_8B, "torch_dtype": "float16"}, 1, (), 131072),
        ({**LLAMA_8B, "num_key_value_heads": None}, 1, (), 131072 * 4),  # all heads
        ({**LLAMA_8B, "torch_dtype": None, "dtype": "float16"}, 1, (), 131072),
    ],
)
def test_bytes_of_a_token(config: dict[str, Any], tp: int, arguments: tuple[str, ...], size: int) -> None:
    assert kv_cache.bytes_per_token(config, tp, arguments) == size


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**LLAMA_8B, "torch_dtype": "int8"},
        {**LLAMA_8B, "num_hidden_layers": "many"},
        {**LLAMA_8B, "hidden_size": None},
        {**LLAMA_8B, "layer_types": ["full_attention", "linear_attention"]},
    ],
)
def test_what_a_config_does_not_say_is_not_guessed(config: dict[str, Any]) -> None:
    assert kv_cache.bytes_per_token(config, 1) is None


@pytest.mark.parametrize(
    ("gpus", "fields", "tokens"),
    [
        (1, {}, 20 * 1024**3 // 131072),
        (2, {"tp": 2}, 20 * 1024**3 // (131072 // 2)),  # each rank has 20 GiB, and half of each token
        (2, {"tp": 2, "lmcache": {"mode": "mp"}}, 20 * 1024**3 // 131072),  # one server has all
        (1, {"lmcache": {"enabled": False}}, None),
    ],
)
def test_a_plan_says_how_many_tokens_lmcache_holds(
    gpus: int, fields: dict[str, Any], tokens: int | None
) -> None:
    model = ModelFacts("meta/Llama", "meta/Llama", weights_gib=15, config=LLAMA_8B)
    assert plan(gpus, model_facts=model, **fields).lmcache_tokens == tokens


def test_a_model_that_is_not_here_yet_has_no_number() -> None:
    assert plan(1).lmcache_tokens is None


def test_heads_that_the_ranks_cannot_share_are_an_error_before_anything_starts() -> None:
    nine = ModelFacts("/m", "small", folder="/m", config={**QWEN3_06B, "num_attention_heads": 9})
    assert plan(3, tp=3, model_facts=nine).unit("worker-0").gpus == (0, 1, 2)
    with pytest.raises(SpecError, match="9 attention heads, which 2 ranks cannot share") as caught:
        plan(2, tp=2, model_facts=nine)
    assert caught.value.hint == "take --tp 1, 3 or 9"
    assert plan(2, tp=2, model_facts=ModelFacts("/m", "unknown")).unit("worker-0").gpus == (0, 1)
