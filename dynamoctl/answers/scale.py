"""The answer of `scale --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer

SCHEMA = "dynamoctl/scale/v1"


@dataclass(frozen=True)
class ChangeStep:
    """One step of a change.

    Attributes:
        action: `add` a unit; `replace` one by a new one that serves before the old one goes; `renew` one in
            its place: it ends, then starts again; `remove` one.
        unit: the unit.
        gpus: GPUs of the unit: indices (integers) or UUIDs (strings).
        seconds: how long it took, seconds; None with `--dry-run`.
    """

    action: str
    unit: str
    gpus: tuple[int | str, ...]
    seconds: float | None


@dataclass(frozen=True)
class ScaleAnswer(Answer):
    """Another number of workers.

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
