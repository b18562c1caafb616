"""The versions of the engine's packages, against the sets that dynamoctl was run with.

Compiled parts of one package are built against one version of another, and few say so if it differs.
"""

from __future__ import annotations

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner import lmcache
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.tested_versions import SETS, VersionSet, engine_versions

_DEVICES = {"cpu": "a CPU", "cuda": "GPUs"}


def _nearest(plan: DeploymentPlan, facts: HostFacts) -> tuple[VersionSet, list[str]]:
    """The set that differs least from what is installed, and each difference."""
    installed = engine_versions(facts.versions, plan.device)
    nearest = min(SETS, key=lambda tested: len(tested.versions.items() - installed.items()))
    return nearest, [
        f"{name} {installed[name]}, not {version}"
        for name, version in nearest.versions.items()
        if installed.get(name, version) != version
    ]


def _versions(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.engine != "vllm":
        return []
    nearest, differences = _nearest(plan, facts)
    found = []
    if differences:
        found.append(
            Finding(
                Level.WARNING,
                f"dynamoctl was not run with these versions: {'; '.join(differences)}",
                "install dynamoctl's own set: run ./bootstrap in its folder",
                "LMCache falls back to slow copies if its compiled part is built for another torch",
            )
        )
    elif plan.device not in nearest.evidence and facts.versions:
        found.append(
            Finding(
                Level.WARNING,
                f"dynamoctl was not run with Dynamo {nearest.name} on {_DEVICES[plan.device]} yet",
                "take a set that was, in docs/versions.md, or try a few chats and watch `status`",
                "a release can serve on one kind of device and fail on another",
            )
        )
    is_tried = not facts.versions or lmcache.keeps_in_process(facts.versions, plan.device)
    if plan.lmcache == "inproc" and not is_tried:
        found.append(
            Finding(
                Level.WARNING,
                "LMCache in process was not run with these versions of vLLM and LMCache",
                "leave --lmcache-mode out: a cache server is the default with them",
                "LMCache keeps its server working with new versions of vLLM, and in process no longer",
            )
        )
    return found


def _ok(plan: DeploymentPlan, facts: HostFacts, _model: ModelFacts) -> str:
    if plan.engine != "vllm":
        return ""
    nearest, _ = _nearest(plan, facts)
    where, evidence = _DEVICES[plan.device], nearest.evidence[plan.device]
    return f"each is of the set {nearest.name}, run on {where} by {evidence}"


CHECK = Check("versions", _versions, _ok)
