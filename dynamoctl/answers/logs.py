"""The answer of `logs --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer


@dataclass(frozen=True)
class LogEntry:
    """One line of a log.

    Attributes:
        unit: the unit that wrote the line.
        line: the line.
        time: when it was written, UTC, as in `2026-11-25T12:34:56.500000Z`. A line without a time has that of
            the line before it, or that of its log if no line has one.
        level: `debug`, `info`, `warning`, `error` or `critical`. A line without a level has that of the line
            before it; None if no line before it has one.
    """

    unit: str
    line: str
    time: str
    level: str | None


@dataclass(frozen=True)
class LogsAnswer(Answer):
    """The lines of one unit's log, or of all.

    Attributes:
        name: the deployment.
        lines: the lines, in the order of their times.
    """

    schema: ClassVar[str] = "dynamoctl/logs/v1"

    name: str
    lines: tuple[LogEntry, ...]
