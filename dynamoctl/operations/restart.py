"""Restart units of a living deployment, one after the other."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from dynamoctl import policies
from dynamoctl.errors import DynamoctlError, NotReadyError, SpecError
from dynamoctl.humanize import nearest
from dynamoctl.operations.serving import serving
from dynamoctl.operations.status import ask
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState

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


def consequences(state: DeploymentState, units: Collection[UnitState]) -> list[str]:
    """What clients notice of a restart of these units, one sentence for each that they notice."""
    said = []
    for unit in units:
        others = [one for one in state.units if one.role == unit.role and one.name != unit.name]
        if unit.role == "frontend":
            said.append(f"{unit.name}: answers break off, and requests are refused until it is back")
        elif unit.role != "cache" and not any(one.state == "ready" for one in others):
            said.append(f"{unit.name}: requests fail until it is back, because no other worker has its role")
    return said


def restart(name: str, unit: str) -> float:
    """Restart one unit, and wait until it serves again; what it computes gets the time of `--drain`.

    Returns:
        How long it took, in seconds.

    Raises:
        DynamoctlError: it cannot be restarted now, or has not come back; the supervisor says why.
        NotReadyError: the supervisor does not answer.
    """
    answer = ask(DeploymentDir(name), json.dumps({"restart": unit}), patience_s=None)
    if answer is None:
        raise NotReadyError(
            f"the supervisor of '{name}' has ended or does not answer", f"see: dynamoctl status -n {name}"
        )
    if "error" in answer:
        raise DynamoctlError.from_json(answer["error"])
    return float(answer["seconds"])
