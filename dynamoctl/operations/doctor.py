"""Everything that `doctor` says of a plan on this host: what `up` checks first, and what takes longer."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dynamoctl.checks import plan_checks
from dynamoctl.checks.tiers import Finding
from dynamoctl.errors import DynamoctlError
from dynamoctl.host import gpus
from dynamoctl.host.processes import members
from dynamoctl.operations.planning import Planned
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.processes import process_control
from dynamoctl.state import Folder, deployments

# Each is run as a program of its own, as an engine's process would: what they import stays out of here.
_AGENT = """
from nixl._api import nixl_agent, nixl_agent_config
nixl_agent("dynamoctl-doctor", nixl_agent_config(backends=["UCX"]))
"""
_KERNELS = """
import torch
from importlib import import_module
from importlib.metadata import version
new = tuple(map(int, version("lmcache").split(".")[:3])) >= (0, 5, 4)
import_module("lmcache.cuda_ops" if new else "lmcache.c_ops")
"""


# What a deployment that is up takes itself.
_ITS_OWN = ("HTTP port", "GPU memory", "memory")


@dataclass(frozen=True)
class Looked:
    """One thing that was looked at: its name and what was found, a finding that all is right included."""

    check: str
    finding: Finding


def examine(planned: Planned, on_check: Callable[[str], None]) -> list[Looked]:
    """Look at everything.

    Args:
        on_check: called with the name of what is looked at next.
    """
    plan, seen, model = planned.plan, planned.facts, planned.model
    found: list[Looked] = []
    up = _up(plan.name)
    if up:
        found.append(Looked("deployment", Finding("ok", up)))
    for name, look in plan_checks.CHECKS.items():
        if up and name in _ITS_OWN:
            continue
        on_check(name)
        findings = look(plan, seen, model)
        words = "" if findings else _right(name, planned)
        found += [Looked(name, one) for one in (*findings, *([Finding("ok", words)] if words else []))]
    missing = any(one.check == "packages" and one.finding.level == "error" for one in found)
    for name, start in [] if missing else _programs(plan):
        on_check(name)
        found.append(Looked(name, start()))
    on_check("leftovers")
    return [*found, *(Looked("leftovers", one) for one in _leftovers())]


def _up(name: str) -> str:
    """What to say where a deployment of this name is up: it holds its port and its GPUs itself."""
    try:
        state = Folder(name).read_state()
    except DynamoctlError:  # said among the leftovers
        return ""
    if state is None or not state.supervisor_lives:
        return ""
    return f"'{name}' is {state.state}: its port, and what its GPUs have free, are not looked at"


def _right(check: str, planned: Planned) -> str:
    """What to say of a check that found nothing; nothing where it does not concern this plan."""
    plan, seen = planned.plan, planned.facts
    said = {
        "machine": f"Python {platform.python_version()} on {platform.machine()}, {len(seen.cores)} cores,"
        f" {seen.memory_available_gib:.1f} of {seen.memory_total_gib:.1f} GiB of memory free",
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(seen.versions.items())),
        "memory": f"LMCache takes {plan.lmcache_cpu_gib:g} GiB of it" if plan.lmcache_cpu_gib else "",
        "HTTP port": f"{plan.port} is free" if plan.frontend else "",
        "etcd": ", ".join(plan.etcd_endpoints),
        "tiers": ", ".join(f"{tier.kind} {tier.place}" for tier in plan.lmcache_tiers),
        "model": f"{plan.model} ({_where(planned.model.folder)})",
    }
    if plan.engine == "vllm":
        said["versions"] = "they have been run together"
        said["shared memory"] = "/dev/shm is large enough"  # noqa: S108  (words)
        said["descriptors"] = "enough"
    if plan.device == "cuda" and seen.gpus:
        ours = [
            gpu for gpu in seen.gpus if any(gpu.is_named(one) for unit in plan.units for one in unit.gpus)
        ]
        said["driver"] = gpus.driver()[0]
        said["GPUs"] = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in ours)
        said["GPU memory"] = "what the workers would take is free"
    return said.get(check, "")


def _where(folder: str | None) -> str:
    """A model's folder as one writes it in a shell; what happens where it has none yet."""
    if folder is None:
        return "it is fetched or made at the first start"
    home = Path.home()
    return f"~/{Path(folder).relative_to(home)}" if Path(folder).is_relative_to(home) else folder


def _programs(plan: DeploymentPlan) -> list[tuple[str, Callable[[], Finding]]]:
    """What must be tried to be known."""
    programs: list[tuple[str, Callable[[], Finding]]] = []
    if plan.engine == "vllm" and plan.lmcache == "inproc":
        programs.append(
            (
                "LMCache's kernels",
                lambda: _run(
                    _KERNELS,
                    "they load",
                    "LMCache's compiled kernels do not load",
                    "install dynamoctl's own set of versions: ./bootstrap in its folder does",
                    "it would go on without them, and copy slowly",
                    "warning",
                ),
            )
        )
    if plan.moves_kv_cache:
        programs.append(
            (
                "NIXL",
                lambda: _run(
                    _AGENT,
                    "an agent starts",
                    "NIXL's agent does not start",
                    "install nixl and nixl-cu13, of one version: ./bootstrap in dynamoctl's folder does",
                    "the workers hand the KV cache over with it",
                    "error",
                ),
            )
        )
    return programs


def _run(
    script: str, right: str, wrong: str, mend: str, why: str, level: Literal["error", "warning"]
) -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        code, lines = process_control.run_script(
            [sys.executable, "-c", script], os.environ, Path(folder), lambda _line: None
        )
    if code == 0:
        return Finding("ok", right)
    said = lines[-1].strip() if lines else process_control.how_it_ended(code)
    return Finding(level, f"{wrong}: {said}", mend, why)


def _leftovers() -> list[Finding]:
    """Deployments whose supervisor is gone and whose processes live."""
    findings = []
    for name in deployments():
        try:
            state = Folder(name).read_state()
        except DynamoctlError as error:
            findings.append(Finding("warning", error.message, f"dynamoctl down -n {name}"))
            continue
        if state is None or state.supervisor_lives:
            continue
        alive = members(f"{state.start_id}/")
        if alive:
            findings.append(
                Finding(
                    "warning",
                    f"the supervisor of '{name}' is gone, and {len(alive)} of its processes live",
                    f"dynamoctl down -n {name}",
                    "they hold memory, ports and GPUs, and nobody restarts them",
                )
            )
    return findings or [Finding("ok", "none")]
