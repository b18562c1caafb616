"""Deployments whose supervisor is gone and whose processes still run."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.errors import DynamoctlError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host.processes import members
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import DeploymentDir, deployments


def _leftovers(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    findings = []
    for name in deployments():
        fix = f"dynamoctl down -n {name}"
        try:
            state = DeploymentDir(name).read_state()
        except DynamoctlError as error:
            findings.append(Finding(Level.WARNING, error.message, fix))
            continue
        if state is None or state.supervisor_lives:
            continue
        running = members(f"{state.start_id}/")
        if running:
            findings.append(
                Finding(
                    Level.WARNING,
                    f"the supervisor of '{name}' is gone, and {len(running)} of its processes still run",
                    fix,
                    "they hold memory, ports and GPUs, and nothing restarts them",
                )
            )
    return findings


def _ok(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "none"


CHECK = Check("leftovers", _leftovers, _ok)
