"""Sizes of the profile for vLLM on a CPU: small, unless the model or the user's arguments need others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamoctl.planner.arguments import is_negated, whole_number
from dynamoctl.planner.kv_cache import text_config

CONTEXT_TOKENS = 2048
BATCH_TOKENS = 512

# Keys of a config.json that limit the context.
# vllm==0.31.0:vllm/transformers_utils/model_arch_config_convertor.py:derive_max_model_len_and_key
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)


def context_tokens(config: Mapping[str, Any] | None) -> int:
    """The context of a model on a CPU: vLLM exits if it is longer than the model's own."""
    text = text_config(config or {})
    own = [text[key] for key in _LENGTHS if type(text.get(key)) is int and text[key] > 0]
    return int(min([CONTEXT_TOKENS, *own]))


def has_own_batches(arguments: Sequence[str]) -> bool:
    """Whether a step must hold a whole prompt, so that vLLM has to choose its size."""
    return is_negated(arguments, "--enable-chunked-prefill")


def batch_tokens(arguments: Sequence[str]) -> int:
    """The tokens of one step. A step holds a token of each running request, or vLLM exits.

    Source: vllm==0.31.0:vllm/config/scheduler.py:verify_max_model_len.
    """
    return max(BATCH_TOKENS, whole_number(arguments, "--max-num-seqs", 1))
