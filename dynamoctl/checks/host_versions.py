"""The versions on the other hosts of the deployment: parts of other versions may be misunderstood."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level, unit_environ
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.monitoring import etcd, host_records
from dynamoctl.planner.plan import DeploymentPlan


def _host_versions(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.discovery == "file":
        return []
    try:
        client = etcd.Etcd(plan.etcd_endpoints, unit_environ(plan))
    except PreflightError:
        return []  # the check of etcd says so
    entries = client.registrations(host_records.KIND, plan.units[0].env["DYN_NAMESPACE"]) or []
    mine = host_records.of_this_host(plan, facts.versions)
    return [
        Finding(Level.ERROR, conflict, host_records.FIX, "the KV cache or requests could be misread")
        for conflict in host_records.conflicts(mine, host_records.parse(entries))
    ]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "" if plan.discovery == "file" else "no other host of this deployment has other ones"


CHECK = Check("versions of other hosts", _host_versions, _ok)
