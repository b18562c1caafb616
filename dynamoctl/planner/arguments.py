"""Values in an engine's command line."""

from __future__ import annotations

from collections.abc import Sequence

# vLLM's own default for --gpu-memory-utilization (0.26).
DEFAULT_UTILIZATION = 0.92


def utilization(arguments: Sequence[str], default: float) -> float | None:
    """The share of a GPU that a worker may use; None if it is not a number (vLLM rejects that)."""
    try:
        return float(argument(arguments, "--gpu-memory-utilization") or default)
    except ValueError:
        return None


def argument(arguments: Sequence[str], name: str) -> str | None:
    """The value of the last `NAME VALUE` or `NAME=VALUE`; vLLM takes a name with underscores too."""
    found = None
    for i, word in enumerate(arguments):
        key, equals, value = word.partition("=")
        if key.replace("_", "-") != name:
            continue
        if equals:
            found = value
        elif i + 1 < len(arguments):
            found = arguments[i + 1]
    return found
