"""Make a plan for this host from flags, config file and environment."""

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
from dynamoctl.planner.plan import DeploymentPlan, started_with
from dynamoctl.state import DeploymentDir, DeploymentState, deployments
from dynamoctl.supervisor import revisions


@dataclass(frozen=True)
class PlanningResult:
    """A spec and the plan made from it on this host.

    Attributes:
        spec: the spec, with device and model filled in.
        facts: the host's facts for which the plan was made.
        sources: where each of the spec's values comes from, as `config.load.load` returns it.
    """

    spec: DeploymentSpec
    facts: HostFacts
    model: ModelFacts
    plan: DeploymentPlan
    sources: Mapping[str, str]


def find_config(named: Path | None) -> Path | None:
    """The TOML file to read: `named`, or dynamoctl.toml in the working folder; None if there is none.

    Raises:
        SpecError: the file `named` does not exist.
    """
    if named is not None:
        if not named.is_file():
            raise SpecError(f"there is no config file {named}", "fix the path after --config")
        return named
    default = Path(CONFIG_NAME)
    return default if default.is_file() else None


def plan_for_here(flags: Mapping[str, Any], config: Path | None) -> PlanningResult:
    """Make a plan for this host from flags, the environment and the config file.

    Args:
        flags: flags of `up`, by the spec's names.
        config: the file named by the user, or None.

    Raises:
        SpecError: the settings are invalid.
        PreflightError: this host cannot run the plan.
    """
    spec, sources = load(flags, os.environ, find_config(config))
    return plan(spec, look(spec.name), sources)


def plan_for_cluster(flags: Mapping[str, Any], config: Path | None, where: Cluster) -> PlanningResult:
    """Make a plan for pods, independent of the GPUs, memory and ports of this machine.

    Raises:
        SpecError: the settings are invalid, or cannot be used in a cluster.
    """
    spec, sources = load(flags, os.environ, find_config(config))
    spec = cluster.require_portable(spec)
    model = cluster.model(spec, where, policies.GPU_MODEL)
    spec = spec.model_copy(update={"model": model.path})
    host_facts = cluster.host(spec, where)
    return PlanningResult(spec, host_facts, model, make_plan(spec, host_facts, model, sources), sources)


def look(name: str) -> HostFacts:
    """The facts of the host, for a deployment of this name."""
    return facts.gather(DeploymentDir(name).path, reserved_ports=planned_ports(but=name))


def plan(
    spec: DeploymentSpec, host_facts: HostFacts, sources: Mapping[str, str] | None = None
) -> PlanningResult:
    """Make a plan for a spec.

    Raises:
        SpecError: the spec is invalid.
        PreflightError: this host cannot run the plan.
    """
    device, notes = topology.device(spec, host_facts), topology.notes(spec, host_facts)
    model = locate(spec, host_facts)
    spec = spec.model_copy(update={"device": device, "model": model.path})
    plan = replace(make_plan(spec, host_facts, model, sources), notes=notes)
    return PlanningResult(spec, host_facts, model, plan, sources or {})


def locate(spec: DeploymentSpec, host_facts: HostFacts) -> ModelFacts:
    """The model of a spec, on this host."""
    # Of the rules, none but the offline mode for a folder changes where the engine looks for models.
    environ = started_with(os.environ, {**host_facts.caller_paths, **spec.env})
    default = models.default_model(topology.device(spec, host_facts))
    return models.locate(spec.model or default, spec.served_model_name, environ)


def with_own_ports(planned: PlanningResult) -> PlanningResult:
    """The plan, made again with other ports if another deployment has taken one of them in the meantime.

    Raises:
        PreflightError: the HTTP port is taken, which only the user can change.
    """
    name = planned.spec.name
    theirs = planned_ports(but=name)
    if theirs.isdisjoint(_ports(planned.plan)):
        return planned
    host_facts = look(name)
    plan = make_plan(planned.spec, host_facts, planned.model, planned.sources)
    plan = replace(plan, notes=planned.plan.notes)
    lost = theirs & _ports(plan)
    if lost:
        raise PreflightError(
            f"port {min(lost)} is that of another deployment, which has just been started",
            "choose another port with --port",
        )
    return replace(planned, facts=host_facts, plan=plan)


def _ports(plan: DeploymentPlan) -> set[int]:
    return {port for unit in plan.units for port in unit.ports.values()}


def planned_ports(but: str) -> set[int]:
    """The ports of other deployments' plans, which may not be bound yet: of the changes under way, too."""
    taken: set[int] = set()
    for name in deployments():
        if name == but:
            continue
        try:
            state = DeploymentDir(name).read_state()
        except DynamoctlError:
            continue
        if state is not None and state.supervisor_lives:
            for unit in state.units:
                taken |= set(unit.ports.values())
            taken |= _ports_of_a_change(name, state)
    return taken


def _ports_of_a_change(name: str, state: DeploymentState) -> set[int]:
    """The ports of units that a change under way will add."""
    if state.change is None:
        return set()
    try:
        plan = revisions.read(DeploymentDir(name), state.change.revision).plan
        return {port for unit in plan["units"] for port in unit["ports"].values()}
    except (DynamoctlError, KeyError, TypeError, AttributeError):
        return set()
