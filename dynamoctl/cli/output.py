"""What every command prints alike: data to stdout, all else to stderr, JSON in one envelope."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import DynamoctlError

if TYPE_CHECKING:
    from rich.console import Console


def schema(command: str) -> str:
    """The schema's name of a command's JSON."""
    return f"dynamoctl/{command}/v1"


def emit(name: str, body: dict[str, Any], ok: bool = True) -> None:
    """Print one JSON object: the answer of a command."""
    print(json.dumps({"schema": name, "ok": ok, **body}, indent=2), flush=True)


def emit_line(name: str, body: dict[str, Any]) -> None:
    """Print one JSON object on a line of its own (JSON Lines): one answer of a command that goes on."""
    print(json.dumps({"schema": name, "ok": True, **body}), flush=True)


def console() -> Console:
    """The console for progress and errors: stderr, no colour where NO_COLOR is set or nobody looks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def fail(command: str, error: DynamoctlError, as_json: bool) -> int:
    """Tell a failure; give back its exit code."""
    if as_json:
        emit(schema(command), {"error": error.as_json()}, ok=False)
        return error.exit_code
    out = console()
    out.print("error:", style="bold red", end=" ")
    out.print(error.message, markup=False)
    for line in error.hint.splitlines():
        out.print(f"  {line}", markup=False, style="dim" if line.startswith("  ") else "")
    return error.exit_code


def interrupted(command: str, code: int, as_json: bool) -> int:
    """Tell that the user broke it off."""
    return fail(command, _InterruptedError(code), as_json)


def note(text: str) -> None:
    """One line to stderr."""
    print(text, file=sys.stderr, flush=True)


class _InterruptedError(DynamoctlError):
    def __init__(self, code: int) -> None:
        super().__init__("interrupted")
        self.exit_code = code
