"""A unit of a deployment at run time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dynamoctl.logs.phases import LogWatch
from dynamoctl.planner.plan import Unit
from dynamoctl.state import UnitState

if TYPE_CHECKING:
    from dynamoctl.supervisor.standby import Standby


class RunningUnit:
    """A unit at run time.

    Attributes:
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

    def lost_lease(self) -> bool:
        """Whether the last lines of its log say that its lease in etcd has expired."""
        return self.log is not None and self.log.lost_lease()
