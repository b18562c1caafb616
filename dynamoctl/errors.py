"""The errors that users can see, with their exit codes.

The exit codes are stable (docs/reference.md), because scripts depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class DynamoctlError(Exception):
    """An error that the user sees as a message and an optional hint.

    Attributes:
        message: what is wrong, in one sentence.
        hint: how to fix it; may be empty or have several lines.
        exit_code: the process's exit code.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_json(self) -> dict[str, object]:
        """The `error` object of every `--json` answer."""
        return {"code": self.exit_code, "message": self.message, "hint": self.hint}

    @classmethod
    def from_json(cls, error: Mapping[str, Any]) -> Self:
        """An error that another process of ours has written with `as_json`, with its exit code."""
        same = cls(error["message"], error["hint"])
        same.exit_code = error["code"]
        return same


class SpecError(DynamoctlError):
    """Wrong usage: the arguments or settings are invalid on any host."""

    exit_code = 2


class PreflightError(DynamoctlError):
    """The plan is valid, but this host cannot run it now."""

    exit_code = 3


class NotReadyError(DynamoctlError):
    """A unit died during the start, or the deployment was not ready in time."""

    exit_code = 4


class LeftoverError(DynamoctlError):
    """`down` could not remove everything; the message names what is left."""

    exit_code = 5


class InternalError(DynamoctlError):
    """An invariant of dynamoctl is violated: a bug."""

    exit_code = 1
