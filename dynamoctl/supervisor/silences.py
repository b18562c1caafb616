"""For how long each unit that was ready has given no sign of life, and what that means.

A unit's own process answers at its gate. A vLLM engine besides answers the pings of its worker's process
(`engine_heartbeat`): without them a worker whose engine hangs looks well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamoctl.host import processes
from dynamoctl.humanize import duration
from dynamoctl.monitoring import probes
from dynamoctl.patches import engine_heartbeat
from dynamoctl.patches.engine_heartbeat import Heartbeat
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.lifecycle import PROMPT, Patience
from dynamoctl.supervisor.running_unit import RunningUnit

# One look and the pause before it. Where more has passed, it was the supervisor that stood still.
_LONGEST_LOOK_S = 20.0
# A worker's process sends its first ping within seconds.
_FIRST_PING_S = 60.0


@dataclass(frozen=True)
class Silence:
    """How silent a unit is.

    Attributes:
        seconds: since its last sign of life, or since it last said that it is ready; 0 where all is well.
        words: what does not answer, for people.
        is_deaf: whether it is the unit's own process that does not answer.
    """

    seconds: float
    patience: Patience
    words: str
    is_deaf: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether nobody should be sent to it."""
        return self.seconds >= self.patience.silent_s

    @property
    def is_hung(self) -> bool:
        """Whether waiting is of no use any more."""
        return self.seconds >= self.patience.hung_s


class Silences:
    """Looks at the units of one deployment, again and again."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._processes: dict[str, float] = {}
        self._refusals: dict[str, float] = {}
        self._engines: dict[str, float] = {}
        self._beats: dict[str, Heartbeat] = {}
        self._looked = time.monotonic()

    @property
    def _busy(self) -> Patience:
        return lifecycle.busy(self._deployment.plan.hang_timeout_s)

    async def look(self) -> list[tuple[RunningUnit, Silence]]:
        """Each unit that is up, and the longest of its silences.

        Raises:
            OSError: there are too few descriptors to ask them.
        """
        up = [one for one in self._deployment.members if one.state.state in ("ready", "unresponsive")]
        processes.require_descriptors(2 * len(up))  # without one, who is well would seem silent
        said = await asyncio.gather(*(probes.gate_is_open(one.unit.gate) for one in up))
        gates = {member.unit.name: answer for member, answer in zip(up, said, strict=True)}
        beats = {one.unit.name: beat for one in up if (beat := self._beat(one)) is not None}
        now = time.monotonic()
        passed_s, self._looked = min(now - self._looked, _LONGEST_LOOK_S), now
        answered = {name: is_open or why.startswith(probes.ANSWERS) for name, (is_open, why) in gates.items()}
        self._processes = lifecycle.silent_for(self._processes, answered, passed_s)
        ready = {name: is_open or not answered[name] for name, (is_open, _) in gates.items()}
        self._refusals = lifecycle.silent_for(self._refusals, ready, passed_s)
        self._engines = lifecycle.silent_for(self._engines, self._have_answered(up, beats), passed_s)
        self._beats = beats
        # Others may have seen its end meanwhile.
        return [
            (one, self._worst(one.unit.name, gates[one.unit.name][1]))
            for one in up
            if one.state.state in ("ready", "unresponsive")
        ]

    def _beat(self, member: RunningUnit) -> Heartbeat | None:
        if not (member.unit.is_worker and self._deployment.plan.engine == "vllm"):
            return None
        beat = engine_heartbeat.read(self._deployment.folder.work(member.place))
        if beat is None and time.time() - member.state.ready_at > _FIRST_PING_S:
            self._deployment.warn(
                f"{member.unit.name}: its engine is not pinged, so one that hangs would not be seen"
            )
        return beat

    def _have_answered(self, up: Sequence[RunningUnit], beats: Mapping[str, Heartbeat]) -> dict[str, bool]:
        """Unit -> whether its engine has since the last look; at the first look, whether that is assumed."""
        return {
            one.unit.name: beats[one.unit.name].answered != self._beats[one.unit.name].answered
            if one.unit.name in self._beats
            else one.state.state == "ready"
            for one in up
            if one.unit.name in beats
        }

    def _worst(self, name: str, said: str) -> Silence:
        process, engine = self._processes[name], self._engines.get(name, 0.0)
        refusal = self._refusals[name]
        # It answers, and says that it is not ready. Out of service, it may catch up.
        refuses = Patience(PROMPT.silent_s, self._busy.hung_s)
        found = [
            Silence(process, PROMPT, f"not answering for {duration(process)}", is_deaf=True),
            Silence(refusal, refuses, f"not ready for {duration(refusal)}: {said}"),
        ]
        if name in self._beats:
            patience = PROMPT if self._beats[name].was_idle else self._busy
            found.append(Silence(engine, patience, f"engine not answering for {duration(engine)}"))
        return max(found, key=lambda one: (one.is_hung, one.is_silent, one.seconds))
