"""dynamoctl's vLLM plugin: vLLM must find it, and must be allowed to load it, if the plan needs it."""

from __future__ import annotations

import os
from importlib import metadata

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.patches import plugin
from dynamoctl.planner.plan import DeploymentPlan

# Variable -> what happens without the patch that it asks for.
_WITHOUT = {
    plugin.PACKED_KV: "LMCache gives back wrong values",
    plugin.VARIABLE: "NIXL stalls between CPU workers",
    plugin.NIXL_UNBOUND: "all CPU workers with NIXL compute on one core",
    plugin.SPIN_MS: "waiting processes take cores from those that compute",
    plugin.WAKE_UP: "an engine that misses a call of its own hangs for a minute or longer",
    plugin.LMCACHE_SERVER: "a worker that loses LMCache's server stays without it",
    plugin.END_ENGINE: "a prefill worker takes long to end",
}


def _plugin(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    consequences = _consequences(plan)
    if not consequences:
        return []
    allowed = os.environ.get("VLLM_PLUGINS")
    if not metadata.entry_points(group="vllm.general_plugins", name="dynamoctl"):
        fix = "install dynamoctl as a package: run ./bootstrap in its folder"
    elif allowed is not None and "dynamoctl" not in allowed.split(","):
        fix = "add dynamoctl to VLLM_PLUGINS, or unset it"
    else:
        return []
    level = Level.ERROR if _WITHOUT[plugin.PACKED_KV] in consequences else Level.WARNING
    return [Finding(level, f"vLLM will not load dynamoctl's plugin: {', and '.join(consequences)}", fix)]


def _consequences(plan: DeploymentPlan) -> list[str]:
    """What happens if vLLM does not load the plugin; empty if the plan does not need it."""
    return [
        consequence
        for variable, consequence in _WITHOUT.items()
        if any(variable in unit.env for unit in plan.units)
    ]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "vLLM will load it" if _consequences(plan) else ""


CHECK = Check("plugin", _plugin, _ok)
