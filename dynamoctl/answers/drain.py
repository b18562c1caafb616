"""The answers of `drain --json` and `undrain --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer

SCHEMA = "dynamoctl/drain/v1"
UNDRAIN_SCHEMA = "dynamoctl/undrain/v1"


@dataclass(frozen=True)
class DrainAnswer(Answer):
    """A worker that gets no more requests.

    Attributes:
        name: the deployment.
        unit: the worker.
        seconds: how long its requests took, seconds.
    """

    schema: ClassVar[str] = SCHEMA

    name: str
    unit: str
    seconds: float


@dataclass(frozen=True)
class UndrainAnswer(Answer):
    """A worker that gets requests again.

    Attributes:
        name: the deployment.
        unit: the worker.
    """

    schema: ClassVar[str] = UNDRAIN_SCHEMA

    name: str
    unit: str
