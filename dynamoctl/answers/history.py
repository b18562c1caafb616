"""The answer of `history --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer

SCHEMA = "dynamoctl/history/v1"


@dataclass(frozen=True)
class HistoryRevision:
    """One plan of a deployment.

    Attributes:
        revision: its number.
        what: what was asked for, as `scale decode 2`.
        at: when, in ISO 8601.
        outcome: `done`, `under way`, `interrupted` (its supervisor ended, or `down` came), or `failed: ` and
            why.
        is_current: whether it is the plan that runs, or ran last.
    """

    revision: int
    what: str
    at: str
    outcome: str
    is_current: bool


@dataclass(frozen=True)
class HistoryAnswer(Answer):
    """The plans of a deployment.

    Attributes:
        name: the deployment.
        revisions: the last 20, the oldest first.
    """

    schema: ClassVar[str] = SCHEMA

    name: str
    revisions: tuple[HistoryRevision, ...]
