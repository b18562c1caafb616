"""What every command prints alike: data to stdout, all else to stderr, and an answer in its envelope."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import DynamoctlError

if TYPE_CHECKING:
    from rich.console import Console

    from dynamoctl.answers.envelope import Answer, Error


def emit(answer: Answer, error: Error | None = None) -> None:
    """Print the answer of a command as JSON.

    Args:
        error: why the command failed although it has an answer; None if it did not fail.
    """
    from dynamoctl.answers.envelope import as_json

    emit_json(as_json(answer, error))


def emit_json(body: dict[str, Any], indent: int | None = 2) -> None:
    """Print what is in its envelope already; without an indent, on one line."""
    print(json.dumps(body, indent=indent), flush=True)


def emit_line(answer: Answer) -> None:
    """Print one of the answers of a command that goes on: a JSON object on a line (JSON Lines)."""
    from dynamoctl.answers.envelope import as_json

    emit_json(as_json(answer), indent=None)


def console() -> Console:
    """The console for progress and errors: stderr, no colour where NO_COLOR is set or nobody looks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def fail(command: str, error: DynamoctlError, json_wanted: bool) -> int:
    """Tell a failure; give back its exit code.

    Args:
        command: the command's name in its schema.
    """
    if json_wanted:
        from dynamoctl.answers.envelope import Error, envelope, schema_name

        emit_json(envelope(schema_name(command), {}, Error.of(error)))
        return error.exit_code
    out = console()
    out.print("error:", style="bold red", end=" ")
    out.print(error.message, markup=False)
    for line in error.hint.splitlines():
        out.print(f"  {line}", markup=False, style="dim" if line.startswith("  ") else "")
    return error.exit_code


def interrupted(command: str, code: int, json_wanted: bool) -> int:
    """Tell that the user broke it off."""
    return fail(command, _InterruptedError(code), json_wanted)


def note(text: str) -> None:
    """One line to stderr."""
    print(text, file=sys.stderr, flush=True)


class _InterruptedError(DynamoctlError):
    def __init__(self, code: int) -> None:
        super().__init__("interrupted")
        self.exit_code = code
