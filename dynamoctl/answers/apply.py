"""The answer of `apply --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer
from dynamoctl.answers.scale import ChangeStep

SCHEMA = "dynamoctl/apply/v1"


@dataclass(frozen=True)
class ApplyAnswer(Answer):
    """Another spec.

    Attributes:
        name: the deployment.
        revision: number of the plan that runs now; None if nothing was changed.
        steps: what was done, or with `--dry-run` would be, in order.
        warnings: what does not stop the change but should be known.
    """

    schema: ClassVar[str] = SCHEMA

    name: str
    revision: int | None
    steps: tuple[ChangeStep, ...]
    warnings: tuple[str, ...]
