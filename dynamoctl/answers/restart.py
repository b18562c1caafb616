"""The answer of `restart --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer

SCHEMA = "dynamoctl/restart/v1"


@dataclass(frozen=True)
class RestartedUnit:
    """A unit that serves again.

    Attributes:
        name: the unit.
        seconds: from the request until it served again, seconds.
        in_place: whether it ended before it started again.
    """

    name: str
    seconds: float
    in_place: bool = False


@dataclass(frozen=True)
class RestartAnswer(Answer):
    """Units that were restarted.

    Attributes:
        name: the deployment.
        units: in the order in which they were restarted.
    """

    schema: ClassVar[str] = SCHEMA

    name: str
    units: tuple[RestartedUnit, ...]
