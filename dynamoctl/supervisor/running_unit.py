"""A unit of a deployment at run time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from dynamoctl import patches
from dynamoctl.logs.phases import LogWatch
from dynamoctl.planner.plan import Unit
from dynamoctl.state import UnitState

if TYPE_CHECKING:
    from dynamoctl.supervisor.standby import Standby


class RunningUnit:
    """A unit at run time.

    Attributes:
        place: name of its working folder; that of a unit that has replaced another one differs from its name.
        keeper: the task that restarts it when it ends; None until it counts.
        mark: the value of `host.processes.MARK` in the environment of the unit's processes.
        standby: the process that waits to be its next one (`supervisor.standby`); None if there is none.
        ready: set while the unit's gate is passed.
        ended: set when the unit's first process has exited.
        exit_code: exit code of the first process, or minus the signal number (as in `subprocess`); None
            while it runs.
        log: reader of the unit's log; None before the first start.
        restarts: times of the restarts, in seconds of the monotonic clock.
        ready_since: when the gate last passed, in seconds of the monotonic clock; 0 if it never did.
        start_s: the longest time from a start to its gate, in seconds.
        renewed: whether the supervisor ended the unit to start it again, which is not a failure.
        is_deaf: while the unit is `unresponsive`, whether its own process is the one that does not answer.
        stranger: whether a process that is not the unit's answered at its gate.
    """

    def __init__(self, unit: Unit, state: UnitState, mark: str) -> None:
        self.unit = unit
        self.state = state
        self.mark = mark
        self.place = unit.name
        self.keeper: asyncio.Task[None] | None = None
        self.standby: Standby | None = None
        self._marks = 0
        self._first_mark = mark
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.exit_code: int | None = None
        self.log: LogWatch | None = None
        self.restarts: list[float] = []
        self.ready_since = 0.0
        self.start_s = 0.0
        self.renewed = False
        self.is_deaf = False
        self.stranger = False

    def next_mark(self) -> str:
        """A new mark for a process of this unit's that lives beside those with the present one."""
        self._marks += 1
        return f"{self._first_mark}~{self._marks}"

    def become(self, unit: Unit) -> None:
        """Have other settings from the next start on."""
        new = new_state(unit)
        self.unit = unit
        self.state.gpus, self.state.ports, self.state.patches = new.gpus, new.ports, new.patches

    def successor(self, unit: Unit) -> RunningUnit:
        """A unit that is to replace this one, under another name until then."""
        mark = self.next_mark()
        name = f"{self.unit.name}~{self._marks}"
        new = RunningUnit(replace(unit, name=name), new_state(unit, name), mark)
        new._marks, new._first_mark = self._marks, self._first_mark
        return new

    def take_over(self, old: RunningUnit) -> None:
        """Get the name of the unit that this one has replaced."""
        name = old.unit.name
        self.unit = replace(self.unit, name=name)
        self.state.name = name
        self.state.restarts = old.state.restarts + 1
        self.restarts = old.restarts
        self._marks = max(self._marks, old._marks)

    def lost_lease(self) -> bool:
        """Whether the last lines of its log say that its lease in etcd has expired."""
        return self.log is not None and self.log.lost_lease()


def new_state(unit: Unit, name: str = "") -> UnitState:
    """The state of a unit that has not been started yet.

    Args:
        name: another name than the plan's.
    """
    state = UnitState(name or unit.name, unit.role, gpus=list(unit.gpus), ports=dict(unit.ports))
    state.patches = [patch.name for patch in patches.switched_on(unit.env)]
    return state
