"""The answer of `doctor --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dynamoctl.answers.envelope import Answer


@dataclass(frozen=True)
class DoctorFinding:
    """What one check found.

    Attributes:
        check: what was checked.
        level: `ok`, `warning` or `error`; with an error, `up` would refuse.
        what: what was found.
        why: what would go wrong; may be empty.
        fix: what to do; empty if all is right.
    """

    check: str
    level: Literal["error", "warning", "ok"]
    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class DoctorAnswer(Answer):
    """The plan that was checked, and the findings. If `up` would refuse, `error` is the first error.

    Attributes:
        name: the deployment.
        mode: `agg` or `disagg`.
        device: `cuda` or `cpu`.
        model: the name that clients use.
        findings: what the checks found, in their order.
    """

    schema: ClassVar[str] = "dynamoctl/doctor/v1"

    name: str
    mode: str
    device: str
    model: str
    findings: tuple[DoctorFinding, ...]
