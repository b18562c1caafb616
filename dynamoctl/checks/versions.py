"""The versions of the engine's packages, against the sets that dynamoctl was tested with.

Compiled parts of one package are built against one version of another, and few say so if it differs.
"""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.tested_versions import SETS, engine_versions


def _versions(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.engine != "vllm":
        return []
    installed = engine_versions(facts.versions, plan.device)
    nearest = min(SETS.values(), key=lambda tested: len(tested.items() - installed.items()))
    differences = [
        f"{name} {installed[name]}, not {version}"
        for name, version in nearest.items()
        if installed.get(name, version) != version
    ]
    if not differences:
        return []
    return [
        Finding(
            Level.WARNING,
            f"these versions have not been tested together: {'; '.join(differences)}",
            "install dynamoctl's own set: run ./bootstrap in its folder",
            "LMCache falls back to slow copies if its compiled part is built for another torch",
        )
    ]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "tested together" if plan.engine == "vllm" else ""


CHECK = Check("versions", _versions, _ok)
