"""How long a model's context is, by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoctl.planner.kv_cache import text_config

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


def own_context(config: Mapping[str, Any] | None) -> int | None:
    """The tokens of a prompt and its answer together that a model was made for; None if it does not say."""
    text = text_config(config or {})
    return min((text[key] for key in _LENGTHS if type(text.get(key)) is int and text[key] > 0), default=None)
