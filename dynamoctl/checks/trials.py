"""What only a trial shows. Each is a program of its own, like an engine's process, and takes seconds."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dynamoctl.checks.base import Check, Finding, Level, worker_environ
from dynamoctl.checks.packages import missing_packages
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.processes import process_control

_START_AGENT = """
from nixl._api import nixl_agent, nixl_agent_config
nixl_agent("dynamoctl-doctor", nixl_agent_config(backends=["UCX"]))
"""
_LOAD_KERNELS = """
import torch
from importlib import import_module
from importlib.metadata import version
new = tuple(map(int, version("lmcache").split(".")[:3])) >= (0, 5, 4)
import_module("lmcache.cuda_ops" if new else "lmcache.c_ops")
"""


def _kernels(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    error = _error_of(_LOAD_KERNELS, worker_environ(plan)) if _uses_kernels(plan) else ""
    if not error:
        return []
    return [
        Finding(
            Level.WARNING,
            f"LMCache's compiled kernels do not load: {error}",
            "install dynamoctl's own set of versions: run ./bootstrap in its folder",
            "LMCache would run without them, and copy slowly",
        )
    ]


def _kernels_ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "they load" if _uses_kernels(plan) else ""


def _nixl(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    error = _error_of(_START_AGENT, worker_environ(plan)) if _uses_nixl(plan) else ""
    if not error:
        return []
    return [
        Finding(
            Level.ERROR,
            f"NIXL's agent does not start: {error}",
            "install nixl and nixl-cu13 in the same version: run ./bootstrap in dynamoctl's folder",
            "the workers transfer the KV cache with it",
        )
    ]


def _nixl_ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "an agent starts" if _uses_nixl(plan) else ""


def _uses_kernels(plan: DeploymentPlan) -> bool:
    return plan.engine == "vllm" and plan.lmcache == "inproc" and not missing_packages(plan)


def _uses_nixl(plan: DeploymentPlan) -> bool:
    return plan.moves_kv_cache and not missing_packages(plan)


def _error_of(script: str, environ: Mapping[str, str]) -> str:
    """The last line that a failing script prints, or how it ended; empty if it succeeds."""
    with tempfile.TemporaryDirectory() as folder:
        code, lines = process_control.run_script(
            [sys.executable, "-c", script], environ, Path(folder), lambda _line: None
        )
    if code == 0:
        return ""
    return lines[-1].strip() if lines else process_control.how_it_ended(code)


KERNELS = Check("LMCache's kernels", _kernels, _kernels_ok)
NIXL = Check("NIXL", _nixl, _nixl_ok)
