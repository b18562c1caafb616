"""Restart units of a living deployment, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from dynamoctl import policies
from dynamoctl.checks import registry
from dynamoctl.checks.base import Level
from dynamoctl.errors import NotReadyError, SpecError
from dynamoctl.facts import HostFacts
from dynamoctl.humanize import nearest
from dynamoctl.operations import changes, planning
from dynamoctl.operations.changes import Proposal
from dynamoctl.operations.serving import serving
from dynamoctl.planner import rescaling
from dynamoctl.state import DeploymentState, UnitState

# As they stop: workers before what they need, and the frontend last.
_ORDER = [role for roles in policies.STOP_ORDER for role in roles]


def chosen(name: str, units: Sequence[str], role: str | None, everything: bool) -> list[UnitState]:
    """The units to restart, in their order: those that are named, all of a role, or all.

    Raises:
        SpecError: none is named, or one that the deployment has not; nothing of this name runs.
        NotReadyError: the deployment does not serve now.
    """
    if bool(units) + (role is not None) + everything != 1:
        raise SpecError("name the units to restart", "one or more of them, or --role ROLE, or --all")
    there = serving(name).units
    if unknown := next((unit for unit in units if unit not in {one.name for one in there}), None):
        known = [one.name for one in there]
        raise SpecError(
            f"'{name}' has no unit '{unknown}'", nearest(unknown, known) or f"it has {', '.join(known)}"
        )
    if role is not None and role not in {one.role for one in there}:
        roles = ", ".join(dict.fromkeys(one.role for one in there))
        raise SpecError(f"'{name}' has no unit of the role '{role}'", f"its roles are {roles}")
    wanted = [one for one in there if everything or one.role == role or one.name in units]
    return sorted(wanted, key=lambda one: _ORDER.index(one.role))


def plan(name: str, units: Sequence[UnitState], in_place: bool = False) -> Proposal:
    """Plan the restart of these units: a new one serves before the old one goes, if there is room for it.

    Args:
        in_place: whether each ends before it starts again, as it must without room.

    Raises:
        SpecError: nothing of this name runs.
        NotReadyError: it does not serve now, or one of the units cannot be restarted now.
        PreflightError: too few ports are free.
    """
    state, now = changes.running(name)
    down = next((unit for unit in units if unit.state not in ("ready", "unresponsive")), None)
    if down is not None:
        raise NotReadyError(f"{down.name} is {down.state}", "wait until it is ready")
    names = [unit.name for unit in units]
    facts = planning.look(name)
    before_old = names if not in_place else []
    wanted = rescaling.renew(now, facts, before_old)
    proposal = Proposal(f"restart {' '.join(names)}", state, now, wanted, tuple(names), undo=False)
    beside = _with_room(proposal, facts, before_old)
    stay = tuple(unit for unit in names if unit not in beside)
    return replace(proposal, wanted=rescaling.renew(now, facts, beside), in_place=stay)


def _with_room(proposal: Proposal, facts: HostFacts, names: Sequence[str]) -> list[str]:
    """The workers of which a second one can run for a while."""
    if not names or changes.memory_of_a_worker(proposal) > facts.memory_available_gib:
        return []
    plan = proposal.wanted.plan
    # In process, LMCache's tiers on disks belong to one process each.
    if plan.lmcache == "inproc" and any(tier.kind in ("disk", "gds") for tier in plan.lmcache_tiers):
        return []
    model = planning.locate(proposal.now.spec, facts)
    more_gib = plan.lmcache_cpu_gib / len(plan.workers) if plan.lmcache == "inproc" else 0.0
    found = []
    for unit in plan.units:
        if unit.name in names and unit.is_worker:
            alone = replace(plan, units=(unit,), lmcache_cpu_gib=more_gib)
            findings = registry.check_beside(alone, facts, model)
            if not any(finding.level is Level.ERROR for finding in findings):
                found.append(unit.name)
    return found


def consequences(state: DeploymentState, units: Collection[str]) -> list[str]:
    """What clients notice if these units end before they start again, one sentence for each."""
    said = []
    for unit in (one for one in state.units if one.name in units):
        others = [one for one in state.units if one.role == unit.role and one.name != unit.name]
        serving = any(one.state == "ready" and not one.service for one in others)
        if unit.role == "frontend":
            said.append(f"{unit.name}: answers break off, and requests are refused until it is back")
        elif unit.role != "cache" and not serving:
            said.append(f"{unit.name}: requests fail until it is back, because no other worker has its role")
    return said
