"""The engine's packages: they are an extra, and the planner works without them."""

from __future__ import annotations

from importlib import util

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan


def missing_packages(plan: DeploymentPlan) -> list[str]:
    """The distributions that the plan's units need and that are not installed."""
    modules = {"ai-dynamo": "dynamo"}
    if plan.engine == "vllm":
        modules["vllm"] = "vllm"
        if plan.lmcache is not None:
            modules["lmcache"] = "lmcache"
        modules["nixl"] = "nixl"
    return [package for package, module in modules.items() if util.find_spec(module) is None]


def _packages(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    missing = missing_packages(plan)
    if not missing:
        return []
    extra = "gpu" if plan.device == "cuda" else "cpu"
    return [
        Finding(
            Level.ERROR,
            f"not installed here: {', '.join(missing)}",
            f"install dynamoctl with its extra {extra}: run ./bootstrap in its folder",
            "the units run these packages",
        )
    ]


def _ok(_plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> str:
    return ", ".join(f"{package} {version}" for package, version in sorted(facts.versions.items()))


CHECK = Check("packages", _packages, _ok)
