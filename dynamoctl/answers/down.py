"""The answer of `down --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer

SCHEMA = "dynamoctl/down/v1"


@dataclass(frozen=True)
class DownAnswer(Answer):
    """A deployment that is down.

    Attributes:
        name: the deployment.
        was_running: whether there was anything to stop.
        stopped: the units that ran.
        seconds: how long it took, seconds.
    """

    schema: ClassVar[str] = SCHEMA

    name: str
    was_running: bool
    stopped: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class DownAllAnswer(Answer):
    """Every deployment (`--all`).

    Attributes:
        deployments: the deployments, sorted by name.
    """

    schema: ClassVar[str] = SCHEMA

    deployments: tuple[DownAnswer, ...]
