"""The answer of `up --json`. (That of `up --dry-run --json` is the plan: `planner.plan`.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer


@dataclass(frozen=True)
class UpAnswer(Answer):
    """A deployment that is up.

    Attributes:
        name: the deployment.
        mode: `agg` or `disagg`.
        state: `ready`, or `degraded` if it was up before and a unit is being restarted.
        model: the name that clients use.
        endpoint: the frontend's base URL, without `/v1`; None if the frontend is on another host.
        already_up: true if it was up before, with the same plan.
        seconds: time from the start of the supervisor to the first completion, seconds.
        warnings: what does not stop it but should be known.
    """

    schema: ClassVar[str] = "dynamoctl/up/v1"

    name: str
    mode: str
    state: str
    model: str
    endpoint: str | None
    already_up: bool
    seconds: float
    warnings: tuple[str, ...]
