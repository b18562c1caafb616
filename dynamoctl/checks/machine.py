"""The machine: what the engine's packages are built for."""

from __future__ import annotations

import platform
import sys

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan


def _machine(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    findings = []
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        findings.append(
            Finding(
                Level.ERROR,
                f"this machine is {sys.platform} on {platform.machine()}",
                "use a Linux machine on x86-64",
                "LMCache has packages for no other",
            )
        )
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        findings.append(
            Finding(
                Level.WARNING,
                f"dynamoctl has not been tested with Python {platform.python_version()}",
                "use Python 3.11 or 3.12",
                "the engine's packages are compiled for specific versions of Python",
            )
        )
    return findings


def _ok(_plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> str:
    return (
        f"Python {platform.python_version()} on {platform.machine()}, {len(facts.cores)} cores,"
        f" {facts.memory_available_gib:.1f} of {facts.memory_total_gib:.1f} GiB of memory free"
    )


CHECK = Check("machine", _machine, _ok)
