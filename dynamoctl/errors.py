"""Every failure that a user can meet, with the exit code that it ends in.

The codes are a promise (docs/reference.md): scripts branch on them.
"""

from __future__ import annotations


class DynamoctlError(Exception):
    """A failure told to the user as a message and, where there is one, a hint that says what to do.

    Attributes:
        message: what is wrong, in one sentence.
        hint: what to do about it; may be empty, may hold several lines.
        exit_code: the process's exit code.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_json(self) -> dict[str, object]:
        """The error as it stands in every `--json` answer."""
        return {"code": self.exit_code, "message": self.message, "hint": self.hint}


class SpecError(DynamoctlError):
    """Wrong usage: what was asked for makes no deployment, whatever the host."""

    exit_code = 2


class PreflightError(DynamoctlError):
    """The plan is sound, but this host cannot run it now."""

    exit_code = 3


class NotReadyError(DynamoctlError):
    """A unit died on the way, or the deployment was not ready in time."""

    exit_code = 4


class LeftoverError(DynamoctlError):
    """`down` could not remove everything; the message names what is left."""

    exit_code = 5


class InternalError(DynamoctlError):
    """A rule of dynamoctl itself was broken: a bug."""

    exit_code = 1
