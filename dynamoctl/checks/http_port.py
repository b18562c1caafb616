"""The frontend's HTTP port."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host import ports
from dynamoctl.planner.plan import DeploymentPlan


def _http_port(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.frontend is None:
        return []
    why = ports.can_listen(plan.host, plan.port)
    if why is None:
        return []
    if "in use" in why:
        return [
            Finding(
                Level.ERROR,
                f"HTTP port {plan.port} is taken by {ports.holder(plan.port)}",
                "choose another with --port, or end that process",
            )
        ]
    return [
        Finding(
            Level.ERROR,
            f"cannot listen on {plan.host} port {plan.port}: {why}",
            "choose another with --host and --port",
        )
    ]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return f"{plan.port} is free" if plan.frontend else ""


CHECK = Check("HTTP port", _http_port, _ok, used_while_up=True)
