"""All checks, in the order in which `doctor` shows them. `up` runs PREFLIGHT before it starts anything."""

from __future__ import annotations

from dynamoctl.checks import (
    allocator,
    descriptors,
    etcd,
    gpus,
    host_versions,
    http_port,
    ignored,
    leftovers,
    machine,
    memory,
    model,
    nats,
    overrides,
    packages,
    plugin,
    replaced,
    shared_memory,
    tiers,
    trials,
    versions,
    weights,
)
from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.errors import PreflightError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan

PREFLIGHT: tuple[Check, ...] = (
    machine.CHECK,
    packages.CHECK,
    versions.CHECK,
    plugin.CHECK,
    overrides.CHECK,
    replaced.CHECK,
    ignored.CHECK,
    allocator.CHECK,
    gpus.DRIVER,
    gpus.GPUS,
    gpus.GPU_MEMORY,
    memory.CHECK,
    shared_memory.CHECK,
    descriptors.CHECK,
    http_port.CHECK,
    etcd.CHECK,
    host_versions.CHECK,
    nats.CHECK,
    model.CHECK,
    weights.CHECK,
    tiers.CHECK,
    trials.SETTINGS,
)
# These are about a whole deployment.
_OF_A_START = (
    http_port.CHECK,
    etcd.CHECK,
    host_versions.CHECK,
    nats.CHECK,
    ignored.CHECK,
    replaced.CHECK,
    tiers.CHECK,
)
# These take seconds, or are about other deployments.
DOCTOR_ONLY: tuple[Check, ...] = (trials.KERNELS, trials.NIXL, trials.ARGUMENTS, leftovers.CHECK)


def check(plan: DeploymentPlan, facts: HostFacts, model_facts: ModelFacts) -> list[Finding]:
    """Every error and warning about this plan on this host; errors first."""
    findings = [finding for one in PREFLIGHT for finding in one.run(plan, facts, model_facts)]
    return sorted(findings, key=lambda finding: finding.level)


def check_beside(plan: DeploymentPlan, facts: HostFacts, model_facts: ModelFacts) -> list[Finding]:
    """As `check`, for units that start beside the others of a deployment that is up.

    What the others use already, such as the port of the frontend, is not asked for.
    """
    asked = (one for one in PREFLIGHT if one not in _OF_A_START)
    findings = [finding for one in asked for finding in one.run(plan, facts, model_facts)]
    return sorted(findings, key=lambda finding: finding.level)


def require(findings: list[Finding]) -> list[str]:
    """Raise on errors; return the warnings as lines.

    Raises:
        PreflightError: this host cannot run the plan. It names the first error; its hint has the others.
    """
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    if errors:
        others = [f"also: {other.what}: {other.fix}" for other in errors[1:]]
        raise PreflightError(errors[0].what, "\n".join([errors[0].fix, *others]))
    return [f"{finding.what}: {finding.fix}" for finding in findings if finding.level is Level.WARNING]
