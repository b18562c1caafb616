"""What differs between the plan that runs and another one of the same deployment. Pure, and small.

The supervisor imports this, so it imports nothing that makes a plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from dynamoctl import policies
from dynamoctl.planner.plan import DeploymentPlan, Unit

# vLLM 0.26 takes one; the others are for a neighbour in the way.
ENGINE_PORTS = 4
# Of these there is one, at ports that others know: the running one ends before the new one starts.
IN_PLACE_ROLES = ("frontend", "cache")


@dataclass(frozen=True)
class Difference:
    """The units that a change concerns.

    Attributes:
        added: units that the running plan has not, in the order of the new plan.
        removed: units that the new plan has not, in the order of the running plan.
        changed: pairs of a running unit and the unit of this name in the new plan, which differ.
    """

    added: tuple[Unit, ...] = ()
    removed: tuple[Unit, ...] = ()
    changed: tuple[tuple[Unit, Unit], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def difference(old: DeploymentPlan, new: DeploymentPlan) -> Difference:
    """What has to be done so that the units of one plan become those of the other."""
    before, after = {one.name: one for one in old.units}, {one.name: one for one in new.units}
    return Difference(
        added=tuple(unit for unit in new.units if unit.name not in before),
        removed=tuple(unit for unit in old.units if unit.name not in after),
        changed=tuple(
            (unit, after[unit.name])
            for unit in old.units
            if unit.name in after and not is_same(unit, after[unit.name])
        ),
    )


@dataclass(frozen=True)
class Step:
    """One step of a change.

    Attributes:
        action: `add` a unit; `replace` one by a new one that serves before the old one goes; `renew` one in
            its place: it ends, then starts again; `remove` one.
        old: the unit that runs; None for `add`.
        new: the unit that is to run; None for `remove`.
    """

    action: Literal["add", "replace", "renew", "remove"]
    old: Unit | None
    new: Unit | None

    @property
    def name(self) -> str:
        """The unit."""
        unit = self.new or self.old
        assert unit is not None
        return unit.name

    @property
    def undone(self) -> Step:
        """The step back."""
        back: dict[str, Literal["add", "remove"]] = {"add": "remove", "remove": "add"}
        return Step(back.get(self.action, self.action), self.new, self.old)

    def __str__(self) -> str:
        return f"{_DOING[self.action]} {self.name}"


_DOING = {"add": "adding", "replace": "replacing", "renew": "restarting", "remove": "removing"}


def steps(old: DeploymentPlan, new: DeploymentPlan, in_place: Collection[str] = ()) -> list[Step]:
    """What leads from one plan to the other: what others need first, what goes last.

    Args:
        in_place: units that end before they start again, also if nothing about them differs.
    """
    found = difference(old, new)
    same = {unit.name: (unit, unit) for unit in old.units if unit.name in in_place}
    pairs = {**same, **{one.name: (one, other) for one, other in found.changed}}
    changed = []
    for roles in policies.STOP_ORDER:
        for one, other in (pairs[unit.name] for unit in old.units if unit.name in pairs):
            if one.role in roles:
                is_in_place = one.name in in_place or one.role in IN_PLACE_ROLES
                changed.append(Step("renew" if is_in_place else "replace", one, other))
    added = [Step("add", None, unit) for unit in found.added]
    # The last one first: the numbers that are left have no gap.
    gone = [unit for roles in policies.STOP_ORDER for unit in found.removed[::-1] if unit.role in roles]
    first = [step for step in added if step.new is not None and step.new.role in IN_PLACE_ROLES]
    last = [step for step in added if step not in first]
    return [*first, *changed, *last, *(Step("remove", unit, None) for unit in gone)]


def is_same(one: Unit, other: Unit) -> bool:
    """Whether two units are the same process: all but the order of the start, and the reasons."""
    return replace(one, after=(), why=()) == replace(other, after=(), why=())


def keep(old: DeploymentPlan, new: DeploymentPlan, but: Collection[str] = ()) -> DeploymentPlan:
    """The new plan with the units of the running one, as they are, where both have them.

    Args:
        but: the names of units that are not kept.
    """
    names = {unit.name for unit in new.units}
    running = {unit.name: unit for unit in old.units if unit.name not in but}
    units = [running.get(unit.name, unit) for unit in new.units]
    after = [tuple(name for name in unit.after if name in names) for unit in units]
    return replace(
        new, units=tuple(replace(unit, after=first) for unit, first in zip(units, after, strict=True))
    )


def with_ports(unit: Unit, ports: Mapping[str, int]) -> Unit:
    """The same unit at other ports.

    Args:
        ports: name -> number, for each of the unit's ports.
    """
    numbers = {str(number): str(ports[name]) for name, number in unit.ports.items()}
    gates = {number: ports[name] for name, number in unit.ports.items()}
    moved = {
        name: numbers[value] for name, value in unit.env.items() if name.endswith("PORT") and value in numbers
    }
    gate = replace(unit.gate, port=gates.get(unit.gate.port, unit.gate.port))
    return replace(unit, env={**unit.env, **moved}, ports=dict(ports), gate=gate)


def held_ports(plan: DeploymentPlan, ranks: int) -> Iterator[int]:
    """All ports that the units may use, those behind the first one of a row too.

    Args:
        ranks: how many ranks a worker has.
    """
    for unit in plan.units:
        for name, first in unit.ports.items():
            yield from range(first, first + width(name, ranks))


def width(name: str, ranks: int) -> int:
    """How many ports in a row a unit's port of this name stands for."""
    return {"engine": ENGINE_PORTS, "nixl": ranks}.get(name, 1)
