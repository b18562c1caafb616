"""The interface of a check: one subject, what is wrong with it, and what to say if nothing is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan

GIB = 1024**3


class Level(IntEnum):
    """How much a finding matters. Sorted by it, errors come first and what is right comes last."""

    ERROR = 0
    WARNING = 1
    OK = 2

    @property
    def label(self) -> Literal["error", "warning", "ok"]:
        """The level as `doctor` prints it, in its JSON too."""
        return _LABELS[self]


_LABELS: dict[Level, Literal["error", "warning", "ok"]] = {
    Level.ERROR: "error",
    Level.WARNING: "warning",
    Level.OK: "ok",
}


@dataclass(frozen=True)
class Finding:
    """One thing that stops `up` (ERROR), that the user should know (WARNING), or that is right (OK).

    Attributes:
        fix: what to do; empty if all is right.
        why: what would go wrong otherwise; may be empty.
    """

    level: Level
    what: str
    fix: str = ""
    why: str = ""


@dataclass(frozen=True)
class Check:
    """One subject of `doctor`.

    Attributes:
        name: the subject, as `doctor` prints it.
        run: gives the errors and warnings; an empty list if there are none.
        ok: what to say if `run` found nothing; empty if the plan does not concern this subject.
        used_while_up: whether a running deployment uses what is checked, so that the check of its own plan
            would fail.
    """

    name: str
    run: Callable[[DeploymentPlan, HostFacts, ModelFacts], list[Finding]]
    ok: Callable[[DeploymentPlan, HostFacts, ModelFacts], str]
    used_while_up: bool = False


def unit_environ(plan: DeploymentPlan) -> dict[str, str]:
    """The environment that the units get, as far as all get it alike."""
    return plan.units[0].environ(os.environ)


def worker_environ(plan: DeploymentPlan) -> dict[str, str]:
    """The environment that the workers get, as the first one gets it; without workers that of the units."""
    return (*plan.workers, *plan.units)[0].environ(os.environ)
