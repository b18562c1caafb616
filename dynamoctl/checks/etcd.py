"""etcd, if it is the discovery: Dynamo's processes wait two minutes for one that is silent, then exit."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoctl.checks.base import Check, Finding, Level, unit_environ
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.monitoring import etcd
from dynamoctl.planner.plan import DeploymentPlan


def _etcd(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.discovery == "file":
        return []
    environ = unit_environ(plan)
    findings = _login(plan, environ)
    if not findings:
        try:
            answers, why = etcd.Etcd(plan.etcd_endpoints, environ).answers()
        except PreflightError as error:
            return [Finding(Level.ERROR, error.message, error.hint)]
        if not answers:
            fix = "start it (dynamoctl does not), or fix --etcd-endpoints; this host must reach it"
            if "authentication" in why or "user name" in why:
                fix = "fix ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD"
            endpoints = ", ".join(plan.etcd_endpoints)
            findings.append(Finding(Level.ERROR, f"etcd at {endpoints} cannot be used: {why}", fix))
    if plan.elsewhere and plan.address.startswith("127."):
        findings.append(
            Finding(
                Level.WARNING,
                f"other hosts cannot reach this one at {plan.address}",
                "name an address of its network with --advertise",
                f"{' and '.join(plan.elsewhere)} would find what runs here, but could not connect to it",
            )
        )
    return findings


def _login(plan: DeploymentPlan, environ: Mapping[str, str]) -> list[Finding]:
    """Dynamo 1.4 uses either a user name and a password or three certificates, never both."""
    has_password = all(environ.get(name) for name in ("ETCD_AUTH_USERNAME", "ETCD_AUTH_PASSWORD"))
    missing = [name for name in etcd.CERTIFICATES if not environ.get(name)]
    if not any(endpoint.startswith("https://") for endpoint in plan.etcd_endpoints):
        return []
    if has_password:
        return [
            Finding(
                Level.ERROR,
                "Dynamo does not use TLS with etcd if a user name and a password are set",
                "let etcd identify clients by their certificates (--client-cert-auth), and unset"
                " ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD",
            )
        ]
    if missing:
        return [
            Finding(
                Level.ERROR,
                f"etcd is at https://, and not set: {', '.join(missing)}",
                "set all three, each to a PEM file or to its text: Dynamo uses TLS only with all of them",
            )
        ]
    return []


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return ", ".join(plan.etcd_endpoints)


CHECK = Check("etcd", _etcd, _ok)
