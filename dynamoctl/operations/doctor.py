"""Would `up` work here? Runs every check: those that `up` runs too, and those that take longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dynamoctl.checks import registry
from dynamoctl.checks.base import Finding, Level
from dynamoctl.errors import DynamoctlError
from dynamoctl.operations.planning import PlanningResult
from dynamoctl.state import DeploymentDir


@dataclass(frozen=True)
class CheckResult:
    """One finding with the name of the check that made it; one at level OK if all is right."""

    check: str
    finding: Finding


def diagnose(planned: PlanningResult, on_check: Callable[[str], None]) -> list[CheckResult]:
    """Run every check that concerns this plan.

    Args:
        on_check: called with the name of the check that runs next.
    """
    plan, facts, model = planned.plan, planned.facts, planned.model
    results: list[CheckResult] = []
    running = _running(plan.name)
    if running:
        results.append(CheckResult("deployment", Finding(Level.OK, running)))
    for check in (*registry.PREFLIGHT, *registry.DOCTOR_ONLY):
        if running and check.used_while_up:
            continue
        on_check(check.name)
        findings = check.run(plan, facts, model)
        if not findings and (text := check.ok(plan, facts, model)):
            findings = [Finding(Level.OK, text)]
        results += [CheckResult(check.name, finding) for finding in findings]
    return results


def _running(name: str) -> str:
    """What to say if a deployment of this name is up; empty if none is."""
    try:
        state = DeploymentDir(name).read_state()
    except DynamoctlError:  # the check of leftovers reports it
        return ""
    if state is None or not state.supervisor_lives:
        return ""
    return f"'{name}' is {state.state}: its port and the memory that it uses are not checked"
