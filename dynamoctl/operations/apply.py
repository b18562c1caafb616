"""Plan another spec for a deployment that is up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamoctl.config.load import load
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.operations import changes, planning
from dynamoctl.operations.changes import Proposal
from dynamoctl.planner import rescaling, topology
from dynamoctl.state import DeploymentDir
from dynamoctl.supervisor import revisions


def to_flags(flags: Mapping[str, Any], config: Path | None, only_workers: bool = False) -> Proposal:
    """Plan what `up` with these flags and this config file would have started.

    Args:
        only_workers: whether the frontend and the cache server stay as they are.

    Raises:
        SpecError: nothing of this name runs, or what differs cannot be changed while it is up.
        NotReadyError: it does not serve now, or another change is under way.
        PreflightError: this host has no room for the new units.
    """
    spec, _ = load(flags, os.environ, planning.find_config(config))
    return _to(spec, f"apply {spec.mode}", only_workers)


def to_revision(name: str, number: int, only_workers: bool = False) -> Proposal:
    """Plan what an earlier revision was. Raises as `to_flags`."""
    revision = revisions.read(DeploymentDir(name), number)
    return _to(changes.read_spec(revision.spec), f"apply --to {number}", only_workers)


def _to(spec: DeploymentSpec, what: str, only_workers: bool) -> Proposal:
    state, now = changes.running(spec.name)
    facts = planning.look(spec.name)
    model = planning.locate(spec, facts)
    spec = spec.model_copy(update={"device": topology.device(spec, facts), "model": model.path})
    host = rescaling.Host(facts, planning.locate(now.spec, facts), changes.busy_gpus(facts))
    wanted = rescaling.apply(now, host, spec, model, only_workers)
    proposal = Proposal(what, state, now, wanted)
    replaced = [step.name for step in proposal.steps if step.action == "replace"]
    beside = changes.with_room(proposal, facts, replaced)
    in_place = [step.name for step in proposal.steps if step.action == "renew"]
    in_place += [name for name in replaced if name not in beside]
    proposal = replace(proposal, in_place=tuple(in_place))
    return replace(proposal, warnings=tuple(changes.require_room(proposal, facts, model)))
