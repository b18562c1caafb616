"""The envelope of every answer: `{"schema": ..., "ok": ..., ...}`, with an `error` if the command failed.

A program branches on `schema` and `ok`. Keys are added to an answer, but none is removed or given another
meaning: the version in the schema's name changes first.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

from dynamoctl.errors import DynamoctlError


class Answer:
    """The answer of a command, without the envelope.

    A subclass is a dataclass: its fields are the JSON's keys, in their order. It sets `schema`, which two
    commands never share.
    """

    schema: ClassVar[str]


@dataclass
class Error:
    """Why a command failed.

    Attributes:
        code: the exit code of the process.
        message: what is wrong, in one sentence.
        hint: what to do about it; may be empty, may have several lines.
    """

    code: int
    message: str
    hint: str

    @staticmethod
    def of(error: DynamoctlError) -> Error:
        """The answer's form of a failure."""
        return Error(error.exit_code, error.message, error.hint)


def schema_name(command: str) -> str:
    """The name of a command's schema."""
    return f"dynamoctl/{command}/v1"


def envelope(schema: str, body: dict[str, Any], error: Error | None = None) -> dict[str, Any]:
    """A body in its envelope.

    Args:
        error: why the command failed; None if it did not.
    """
    failure = {"error": asdict(error)} if error is not None else {}
    return {"schema": schema, "ok": error is None, **body, **failure}


def as_json(answer: Answer, error: Error | None = None) -> dict[str, Any]:
    """An answer in its envelope.

    Args:
        error: why the command failed although it has an answer; None if it did not fail.
    """
    return envelope(answer.schema, asdict(cast("Any", answer)), error)
