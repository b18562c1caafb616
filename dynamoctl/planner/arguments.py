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


def is_given(arguments: Sequence[str], *names: str) -> bool:
    """Whether one of these options is among the arguments, with or without a value."""
    return any(word.partition("=")[0].replace("_", "-") in names for word in arguments)


def is_on(arguments: Sequence[str], name: str) -> bool:
    """Whether a switch of vLLM is on: the last of `--NAME` and `--no-NAME` counts."""
    off = f"--no-{name.removeprefix('--')}"
    words = [word.replace("_", "-") for word in arguments]
    return next((word == name for word in reversed(words) if word in (name, off)), False)
