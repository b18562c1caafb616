"""NATS: no plan needs it, but [env] can ask Dynamo to use it."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level, unit_environ
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.monitoring import probes
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.planner.secrets import redact


def _nats(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    servers = _servers(plan)
    attempts = [probes.nats_answers(server.strip()) for server in servers.split(",") if servers]
    if not attempts or any(answers for answers, _ in attempts):
        return []
    return [
        Finding(
            Level.ERROR,
            f"NATS at {redact(servers)} cannot be used: {attempts[0][1]}",
            "start it (dynamoctl does not), fix NATS_SERVER, or unset DYN_REQUEST_PLANE and DYN_EVENT_PLANE",
        )
    ]


def _servers(plan: DeploymentPlan) -> str:
    """The URLs of the NATS servers, with commas between them; empty if Dynamo will not use NATS."""
    environ = unit_environ(plan)
    if "nats" not in (environ.get("DYN_REQUEST_PLANE"), environ.get("DYN_EVENT_PLANE")):
        return ""
    return environ.get("NATS_SERVER") or f"nats://localhost:{probes.NATS_PORT}"


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return str(redact(_servers(plan)))


CHECK = Check("NATS", _nats, _ok)
