"""Does the user's environment break a rule about the engine? It wins, so `up` says what that costs."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.planner.secrets import redact


def _overrides(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """A warning for each variable of [env] that changes what a rule sets.

    Rules that users have good reasons to override (`override_expected`) are left out.
    """
    findings: dict[str, Finding] = {}
    for unit in plan.units:
        for reason in unit.why:
            if reason.override_expected or not reason.is_variable or unit.has(reason):
                continue
            theirs = redact(unit.env[reason.sets], reason.sets)
            ours = "takes it away" if reason.value is None else f"sets it to '{reason.value}'"
            findings.setdefault(
                reason.rule,
                Finding(
                    Level.WARNING,
                    f"[env] sets {reason.sets} to '{theirs}'; the rule {reason.rule} {ours}",
                    f"take {reason.sets} out of [env]. Without the rule: {reason.without}",
                    reason.why,
                ),
            )
    return list(findings.values())


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    rules = {reason.rule for unit in plan.units for reason in unit.why}
    return "[env] leaves the plan's rules as they are" if rules else ""


CHECK = Check("overrides", _overrides, _ok)
