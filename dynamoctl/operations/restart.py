"""Restart units of a living deployment, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dynamoctl import policies
from dynamoctl.errors import NotReadyError, SpecError
from dynamoctl.humanize import nearest
from dynamoctl.operations import changes, planning
from dynamoctl.operations.changes import Proposal
from dynamoctl.operations.serving import serving
from dynamoctl.planner import rescaling
from dynamoctl.state import UnitState

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
    beside = changes.with_room(proposal, facts, before_old)
    stay = tuple(unit for unit in names if unit not in beside)
    return replace(proposal, wanted=rescaling.renew(now, facts, beside), in_place=stay)
