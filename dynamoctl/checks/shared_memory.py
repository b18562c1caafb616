"""Shared memory: an engine's processes and NCCL talk to each other in /dev/shm."""

from __future__ import annotations

import shutil
from pathlib import Path

from dynamoctl.checks.base import GIB, Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan

# A container has 64 MiB by default.
NEEDED_GIB = 1.0
_SHARED = "/dev/shm"  # noqa: S108  (where POSIX shared memory is; nothing is made here)


def _shared_memory(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    if plan.engine != "vllm" or not Path(_SHARED).is_dir():
        return []
    free_gib = shutil.disk_usage(_SHARED).free / GIB
    if free_gib >= NEEDED_GIB:
        return []
    return [
        Finding(
            Level.WARNING,
            f"{_SHARED} has {free_gib:.2f} GiB free",
            "enlarge it: docker run --shm-size=8g, or mount -o remount,size=8G /dev/shm",
            "an engine's processes talk to each other in it, and SIGBUS ends them if it is full",
        )
    ]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return f"{_SHARED} is large enough" if plan.engine == "vllm" else ""


CHECK = Check("shared memory", _shared_memory, _ok)
