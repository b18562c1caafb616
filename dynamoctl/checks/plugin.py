"""dynamoctl's vLLM plugin: vLLM must find it, and must be allowed to load it, if the plan needs it."""

from __future__ import annotations

from importlib import metadata

from dynamoctl import patches
from dynamoctl.checks.base import Check, Finding, Level, worker_environ
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.patches import plugin
from dynamoctl.patches.base import Patch
from dynamoctl.planner.plan import DeploymentPlan


def _plugin(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    needed = _needed(plan)
    if not needed:
        return []
    allowed = worker_environ(plan).get("VLLM_PLUGINS")
    offered = metadata.entry_points(group="vllm.general_plugins", name="dynamoctl")
    # An installation from before a move names a module that is gone; vLLM logs that and goes on.
    if not any(entry.module == plugin.__name__ for entry in offered):
        fix = "install dynamoctl as a package: run ./bootstrap in its folder"
    elif allowed is not None and "dynamoctl" not in allowed.split(","):
        fix = "add dynamoctl to VLLM_PLUGINS, or unset it"
    else:
        return []
    level = Level.ERROR if any(patch.is_required for patch in needed) else Level.WARNING
    consequences = ", and ".join(patch.without for patch in needed)
    return [Finding(level, f"vLLM will not load dynamoctl's plugin: {consequences}", fix)]


def _needed(plan: DeploymentPlan) -> list[Patch]:
    """The patches that the plan switches on, in the order in which they are applied."""
    wanted = {patch for unit in plan.units for patch in patches.switched_on(unit.env)}
    return [patch for patch in patches.ALL if patch in wanted]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "vLLM will load it" if _needed(plan) else ""


CHECK = Check("plugin", _plugin, _ok)
