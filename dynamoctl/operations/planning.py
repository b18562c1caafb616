"""From the user's words to a plan for this host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamoctl import policies
from dynamoctl.config.choices import CONFIG_NAME
from dynamoctl.config.load import load
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import DynamoctlError, PreflightError, SpecError
from dynamoctl.export import cluster
from dynamoctl.export.cluster import Cluster
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host import facts, models
from dynamoctl.planner import make_plan, topology
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import Folder, deployments


@dataclass(frozen=True)
class Planned:
    """A spec with what came of it on this host. `spec` has its device and model filled in.

    Attributes:
        sources: where each of its values comes from, as `spec.load` says it.
    """

    spec: DeploymentSpec
    facts: HostFacts
    model: ModelFacts
    plan: DeploymentPlan
    sources: Mapping[str, str]


def find_config(named: Path | None) -> Path | None:
    """The TOML to read: the one that is named, or dynamoctl.toml in the working folder.

    Raises:
        SpecError: the named file is not there.
    """
    if named is not None:
        if not named.is_file():
            raise SpecError(f"there is no config file {named}", "mend the path after --config")
        return named
    here = Path(CONFIG_NAME)
    return here if here.is_file() else None


def plan_for_here(flags: Mapping[str, Any], config: Path | None) -> Planned:
    """Read what the user wants, look at the host, plan.

    Raises:
        SpecError: it makes no deployment.
        PreflightError: not on this host.
    """
    spec, sources = load(flags, os.environ, find_config(config))
    return plan(spec, look(spec.name), sources)


def plan_for_cluster(flags: Mapping[str, Any], config: Path | None, where: Cluster) -> Planned:
    """Plan for pods: GPUs, memory and ports of this machine do not matter.

    Raises:
        SpecError: it makes no deployment, or none in a cluster.
    """
    spec, sources = load(flags, os.environ, find_config(config))
    spec = cluster.require_portable(spec)
    model = cluster.model(spec, where, policies.GPU_MODEL)
    spec = spec.model_copy(update={"model": model.path})
    seen = cluster.host(spec)
    return Planned(spec, seen, model, make_plan(spec, seen, model, sources), sources)


def look(name: str) -> HostFacts:
    """One look at the host, for a deployment of this name."""
    return facts.gather(Folder(name).path, reserved_ports=_planned_ports(but=name))


def plan(spec: DeploymentSpec, seen: HostFacts, sources: Mapping[str, str] | None = None) -> Planned:
    """Plan what the user wants.

    Raises:
        SpecError: it makes no deployment.
        PreflightError: not on this host.
    """
    device = topology.device(spec, seen)
    model = models.locate(spec.model or models.default_model(device), spec.served_model_name)
    spec = spec.model_copy(update={"device": device, "model": model.path})
    return Planned(spec, seen, model, make_plan(spec, seen, model, sources), sources or {})


def with_own_ports(planned: Planned) -> Planned:
    """The same with other ports where another deployment has planned one of them in the meantime.

    Raises:
        PreflightError: one of them is the HTTP port, which is the user's to choose.
    """
    name = planned.spec.name
    theirs = _planned_ports(but=name)
    if theirs.isdisjoint(_ports(planned.plan)):
        return planned
    seen = look(name)
    plan = make_plan(planned.spec, seen, planned.model, planned.sources)
    lost = theirs & _ports(plan)
    if lost:
        raise PreflightError(
            f"port {min(lost)} is that of another deployment, which has just been started",
            "take another with --port",
        )
    return replace(planned, facts=seen, plan=plan)


def _ports(plan: DeploymentPlan) -> set[int]:
    return {port for unit in plan.units for port in unit.ports.values()}


def _planned_ports(but: str) -> set[int]:
    """Ports of the other deployments' plans, which may not have been bound yet."""
    planned: set[int] = set()
    for name in deployments():
        if name == but:
            continue
        try:
            state = Folder(name).read_state()
        except DynamoctlError:
            continue
        if state is not None and state.supervisor_lives:
            for unit in state.units:
                planned |= set(unit.ports.values())
    return planned
