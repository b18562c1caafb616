"""Values in an engine's command line, in whatever spelling they are given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

# vLLM's own default for --gpu-memory-utilization (0.26).
DEFAULT_UTILIZATION = 0.92


# Of a number that an engine can use; Python does not write one of thousands.
_MOST_DIGITS = 18


def utilization(arguments: Sequence[str], default: float) -> float | None:
    """The share of a GPU that a worker may use; None if it is not a number (vLLM rejects that)."""
    try:
        return float(argument(arguments, "--gpu-memory-utilization") or default)
    except ValueError:
        return None


def argument(arguments: Sequence[str], name: str) -> str | None:
    """The last value of an option, in any spelling that a worker takes; a flag's value is empty.

    An option that a worker does not have, such as the frontend's, counts as it is written.

    Args:
        name: the option's first name.
    """
    # Imported here because the supervisor, which reads plans, has no use for it.
    from dynamoctl.planner import engine_options

    if name in engine_options.names():
        values = [one.values for one in engine_options.parse(arguments).given if one.option == name]
        return " ".join(values[-1]) if values else None
    found = None
    for word, after in pairwise((*arguments, "")):
        key, equals, value = word.partition("=")
        if key == name:
            found = value if equals else after
    return found


def whole_number(arguments: Sequence[str], name: str, default: int) -> int:
    """A number of 1 or more out of an engine's arguments; the default for what the engine rejects itself."""
    value = argument(arguments, name) or ""
    is_number = value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS
    return (int(value) if is_number else 0) or default


def is_negated(arguments: Sequence[str], name: str) -> bool:
    """Whether a switch of a worker is given, and switched off."""
    from dynamoctl.planner import engine_options

    return [one.is_negated for one in engine_options.parse(arguments).given if one.option == name][-1:] == [
        True
    ]


def is_given(arguments: Sequence[str], *names: str) -> bool:
    """Whether one of these options of a worker is given, and not switched off."""
    from dynamoctl.planner import engine_options

    last = {one.option: one for one in engine_options.parse(arguments).given}
    return any(name in last and not last[name].is_negated for name in names)
