"""What a unit's gate and its engine's answers together say of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.host import processes
from dynamoctl.monitoring import probes
from dynamoctl.patches import engine_heartbeat
from dynamoctl.patches.engine_heartbeat import Heartbeat
from dynamoctl.planner.plan import Gate, Unit
from dynamoctl.supervisor import silences
from dynamoctl.supervisor.lifecycle import PROMPT, busy
from dynamoctl.supervisor.silences import Silence, Silences

BUSY = busy(180.0)
OPEN, SILENT, REFUSES = (True, "HTTP 200"), (False, "no answer within 10 s"), (False, "HTTP 503")


class Looks:
    """Looks at one worker, five seconds apart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, role: str = "agg", engine: str = "vllm") -> None:
        self.now, self.gate, self.beat = 1000.0, OPEN, Heartbeat(1, was_idle=True)
        self.is_pinged = True
        self.warnings: list[str] = []
        unit = Unit("one", role, ("one",), Gate("http", 20000, "/health"))  # type: ignore[arg-type]
        state = SimpleNamespace(state="ready", ready_at=time.time())
        self.member = SimpleNamespace(unit=unit, state=state, place="one")
        deployment: Any = SimpleNamespace(
            members=[self.member],
            plan=SimpleNamespace(engine=engine, hang_timeout_s=180.0),
            folder=SimpleNamespace(work=lambda name: Path("/nowhere")),
            warn=self.warnings.append,
        )
        monkeypatch.setattr(silences, "time", SimpleNamespace(monotonic=lambda: self.now, time=time.time))
        monkeypatch.setattr(probes, "gate_is_open", self._gate)
        monkeypatch.setattr(engine_heartbeat, "read", lambda folder: self.beat if self.is_pinged else None)
        self.silences = Silences(deployment)

    async def _gate(self, gate: Gate) -> tuple[bool, str]:
        return self.gate

    def look(self, passed_s: float = 5.0, answers: bool = False, was_idle: bool = True) -> Silence:
        self.now += passed_s
        self.beat = Heartbeat(self.beat.answered + answers, was_idle)
        ((_, silence),) = asyncio.run(self.silences.look())
        return silence


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_a_worker_whose_engine_answers_is_not_silent(looks: Looks) -> None:
    for _ in range(20):
        silence = looks.look(answers=True)
        assert (silence.seconds, silence.is_silent, silence.is_hung) == (0.0, False, False)


def test_an_idle_engine_that_does_not_answer_is_silent_and_then_hung(looks: Looks) -> None:
    looks.look(answers=True)
    seen = [looks.look() for _ in range(9)]
    assert [one.is_silent for one in seen] == [False] + [True] * 8
    assert [one.is_hung for one in seen] == [False] * 8 + [True]
    assert seen[1].words == "engine not answering for 10 s"
    assert looks.look(answers=True).seconds == 0.0


def test_an_engine_in_a_step_gets_more_time(looks: Looks) -> None:
    looks.look(answers=True)
    seen = [looks.look(was_idle=False) for _ in range(36)]
    assert [one.is_silent for one in seen].index(True) == BUSY.silent_s / 5 - 1
    assert [one.is_hung for one in seen].index(True) == BUSY.hung_s / 5 - 1


def test_a_process_that_does_not_answer_is_silent_whatever_its_engine_does(looks: Looks) -> None:
    looks.gate = SILENT
    seen = [looks.look(answers=True) for _ in range(9)]
    assert seen[1].is_silent
    assert seen[-1].is_hung
    assert seen[-1].words == "not answering for 45 s"


def test_a_unit_that_was_ready_and_says_that_it_is_not_is_heard(looks: Looks) -> None:
    """It answers, so it may catch up; it is ended later than one that does not answer."""
    looks.gate = REFUSES
    seen = [looks.look(answers=True) for _ in range(36)]
    assert [one.is_silent for one in seen].index(True) == PROMPT.silent_s / 5 - 1
    assert [one.is_hung for one in seen].index(True) == BUSY.hung_s / 5 - 1
    assert seen[1].words == "not ready for 10 s: HTTP 503"


def test_a_mocker_that_says_not_ready_has_answered(looks: Looks) -> None:
    looks.gate = (False, "generate: notready")
    assert [looks.look(answers=True).is_hung for _ in range(12)] == [False] * 12


def test_without_descriptors_nobody_is_judged(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(count: int) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(processes, "require_descriptors", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        looks.look()


def test_a_supervisor_that_stood_still_counts_one_look(looks: Looks) -> None:
    looks.look(answers=True)
    assert not looks.look(passed_s=3600.0).is_hung


def test_an_engine_that_was_silent_is_not_back_because_its_watcher_is_new(looks: Looks) -> None:
    looks.member.state.state = "unresponsive"
    assert looks.look().seconds > 0.0
    assert looks.look(answers=True).seconds == 0.0


def test_an_engine_that_is_not_pinged_is_said_once_it_should_have_been(looks: Looks) -> None:
    looks.is_pinged = False
    assert looks.look().seconds == 0.0
    assert looks.warnings == []
    looks.member.state.ready_at -= 61.0
    assert looks.look().seconds == 0.0
    assert looks.warnings == ["one: its engine is not pinged, so one that hangs would not be seen"]


@pytest.mark.parametrize(("role", "engine"), [("frontend", "vllm"), ("cache", "vllm"), ("agg", "mocker")])
def test_what_has_no_engine_is_asked_at_its_gate_alone(
    monkeypatch: pytest.MonkeyPatch, role: str, engine: str
) -> None:
    looks = Looks(monkeypatch, role, engine)
    looks.member.state.ready_at -= 61.0
    assert [looks.look().seconds for _ in range(20)] == [0.0] * 20
    assert looks.warnings == []
