"""What of the caller's environment do the units not get? The plan wins over it, so `up` says so."""

from __future__ import annotations

import os

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.lmcache.tables import PREFIX
from dynamoctl.planner.plan import DeploymentPlan, Reason
from dynamoctl.planner.rules import BY_NAME
from dynamoctl.planner.rules.rule import Rule
from dynamoctl.planner.secrets import redact


def _replaced(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """A warning for each variable of the caller's that a rule replaces or takes away.

    Those that dynamoctl itself has read are left out, as `CUDA_VISIBLE_DEVICES` and LMCache's.
    """
    findings: dict[str, Finding] = {}
    for unit in plan.units:
        environ = unit.environ(os.environ)
        for reason in unit.why:
            rule, theirs = BY_NAME.get(reason.rule), os.environ.get(reason.sets)
            if rule is None or rule.replaces_quietly or reason.sets.startswith(PREFIX):
                continue
            if theirs is None or environ.get(reason.sets) == theirs or reason.sets in findings:
                continue
            if not unit.has(reason):  # [env] sets it
                continue
            findings[reason.sets] = _finding(rule, reason, theirs)
    return list(findings.values())


def _finding(rule: Rule, reason: Reason, theirs: str) -> Finding:
    shown = redact(theirs, reason.sets)
    value = "takes it away" if reason.value is None else f"sets {reason.value!r}"
    if rule.instead:
        fix = f"unset it; {rule.instead}" if "[env]" not in rule.instead else "unset it"
    elif rule.override_expected:
        fix = "set it in [env] of dynamoctl.toml to have it, or unset it"
    else:
        fix = "unset it"
    return Finding(
        Level.WARNING,
        f"{reason.sets}={shown} in your environment is not used: the rule {rule.name} {value}",
        fix,
        rule.why,
    )


def _ok(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return ""


CHECK = Check("environment", _replaced, _ok)
