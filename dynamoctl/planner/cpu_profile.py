"""Sizes of the profile for vLLM on a CPU: small, unless the model or the user's arguments need others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamoctl.planner.arguments import is_negated, whole_number
from dynamoctl.planner.model_length import own_context

CONTEXT_TOKENS = 2048
BATCH_TOKENS = 512


def context_tokens(config: Mapping[str, Any] | None) -> int:
    """The context of a model on a CPU: vLLM exits if it is longer than the model's own."""
    return min(CONTEXT_TOKENS, own_context(config) or CONTEXT_TOKENS)


def has_own_batches(arguments: Sequence[str]) -> bool:
    """Whether a step must hold a whole prompt, so that vLLM has to choose its size."""
    return is_negated(arguments, "--enable-chunked-prefill")


def batch_tokens(arguments: Sequence[str]) -> int:
    """The tokens of one step. A step holds a token of each running request, or vLLM exits.

    Source: vllm==0.31.0:vllm/config/scheduler.py:verify_max_model_len.
    """
    return max(BATCH_TOKENS, whole_number(arguments, "--max-num-seqs", 1))
