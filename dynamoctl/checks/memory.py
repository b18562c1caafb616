"""CPU memory: what LMCache takes of it, for each rank in process (pinned), once with a server."""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan

# The share of the available memory from which on LMCache's part is worth a warning.
WARNING_SHARE = 0.7


def _memory(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    wanted_gib, available_gib = plan.lmcache_cpu_gib, facts.memory_available_gib
    if not wanted_gib or wanted_gib <= WARNING_SHARE * available_gib:
        return []
    what = f"LMCache wants {wanted_gib:g} GiB of CPU memory; {available_gib:.1f} GiB are available"
    fix = "take less with --lmcache-cpu-gb"
    if wanted_gib > available_gib:
        return [
            Finding(
                Level.ERROR, what, fix, "LMCache takes all of it at the start, in process and with a server"
            )
        ]
    return [Finding(Level.WARNING, what, fix, "the engine and the page cache need the rest")]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return f"LMCache takes {plan.lmcache_cpu_gib:g} GiB of it" if plan.lmcache_cpu_gib else ""


CHECK = Check("memory", _memory, _ok, used_while_up=True)
