"""The worker's process pings its engine, and the supervisor reads when it last answered."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.patches import engine_heartbeat
from dynamoctl.patches.engine_heartbeat import Pinger, read

from tests.unit.fresh import last_line_with_vllm


class Engine:
    """Like vLLM's `AsyncLLM`: answers a ping when it is let, and knows its unfinished requests."""

    def __init__(self) -> None:
        self.unfinished = 0
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.output_processor = SimpleNamespace(has_unfinished_requests=lambda: bool(self.unfinished))

    async def collective_rpc(self, method: str) -> list[None]:
        self.asked.append(method)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [None]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def later(folder: Path, seconds: float = 5.0) -> None:
    """What is written is older now: a file's time is that of the kernel's last tick."""
    for file in folder.iterdir():
        time = file.stat().st_mtime - seconds
        os.utime(file, (time, time))


async def ping(pinger: Pinger, engine: Engine) -> None:
    pinger.ping(engine)
    await settle()


def test_before_the_first_answer_there_is_no_heartbeat(tmp_path: Path) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        engine.may_answer.clear()
        await ping(pinger, engine)

    assert read(tmp_path) is None
    asyncio.run(live())
    assert read(tmp_path) is None


def test_each_answer_is_a_new_heartbeat(tmp_path: Path) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        await ping(pinger, engine)
        first = read(tmp_path)
        assert first is not None
        later(tmp_path)
        await ping(pinger, engine)
        second = read(tmp_path)
        assert second is not None
        assert second.answered > first.answered - 5e9
        assert engine.asked == [engine_heartbeat.PING] * 2

    asyncio.run(live())


def test_an_idle_engine_that_does_not_answer_was_idle_and_is_asked_once(tmp_path: Path) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        await ping(pinger, engine)
        before = read(tmp_path)
        assert before is not None
        assert not before.was_idle
        later(tmp_path)
        engine.may_answer.clear()
        for _ in range(3):
            await ping(pinger, engine)
        now = read(tmp_path)
        assert now is not None
        assert now.was_idle
        assert len(engine.asked) == 2
        engine.may_answer.set()
        await settle()
        now = read(tmp_path)
        assert now is not None
        assert not now.was_idle

    asyncio.run(live())


def test_an_engine_that_sleeps_or_loads_something_is_not_idle(tmp_path: Path) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        await ping(pinger, engine)
        later(tmp_path)
        pinger.calls = 1
        engine.may_answer.clear()
        await ping(pinger, engine)
        now = read(tmp_path)
        assert now is not None
        assert not now.was_idle

    asyncio.run(live())


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        await ping(pinger, engine)
        before = read(tmp_path)
        assert before is not None
        monkeypatch.setattr("time.time", lambda: 0.0)
        await ping(pinger, engine)
        after = read(tmp_path)
        assert after is not None
        assert before.answered < after.answered < time.monotonic_ns()

    asyncio.run(live())


@pytest.mark.parametrize("is_aborted", [False, True])
def test_an_engine_that_has_a_request_or_had_one_aborted_may_be_in_a_step(
    tmp_path: Path, is_aborted: bool
) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        await ping(pinger, engine)
        later(tmp_path)
        pinger.aborted += is_aborted
        engine.unfinished = 0 if is_aborted else 1
        engine.may_answer.clear()
        await ping(pinger, engine)
        now = read(tmp_path)
        assert now is not None
        assert not now.was_idle

    asyncio.run(live())


@pytest.mark.parametrize("is_aborted", [False, True])
def test_when_its_last_request_has_finished_or_it_has_answered_after_an_abort_it_is_idle(
    tmp_path: Path, is_aborted: bool
) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        engine.unfinished = 1
        await ping(pinger, engine)
        engine.unfinished = 0
        if is_aborted:
            pinger.aborted += 1
            await ping(pinger, engine)
        later(tmp_path)
        engine.may_answer.clear()
        await ping(pinger, engine)
        now = read(tmp_path)
        assert now is not None
        assert now.was_idle

    asyncio.run(live())


def test_an_engine_that_fails_a_ping_has_not_answered(tmp_path: Path) -> None:
    async def live() -> None:
        engine, pinger = Engine(), Pinger(tmp_path)
        engine.error = RuntimeError("the engine is dead")
        await ping(pinger, engine)
        await ping(pinger, engine)

    asyncio.run(live())
    assert read(tmp_path) is None


def test_where_its_folder_was_deleted_nobody_is_told_and_nothing_fails(tmp_path: Path) -> None:
    async def live() -> None:
        engine = Engine()
        pinger = Pinger(tmp_path / "deleted")
        await ping(pinger, engine)
        assert pinger._ping is not None
        assert pinger._ping.exception() is None

    asyncio.run(live())
    assert read(tmp_path / "deleted") is None


# ---- in vLLM's process ----------------------------------------------------------------------


def test_dynamos_own_health_check_pings_and_what_is_aborted_is_counted(tmp_path: Path) -> None:
    class Client(Engine):
        checked = 0

        async def check_health(self) -> None:
            self.checked += 1

    class Processor:
        def abort_requests(self, requests: list[str]) -> list[str]:
            return requests

    class Core:
        async def _call_utility_async(self, method: str, *words: Any, engine: bytes) -> int:
            return pinger.calls

    pinger = Pinger(tmp_path)
    for _ in range(2):  # vLLM calls a plugin more than once in a process
        engine_heartbeat.ping_engine(Client, Processor, Core, pinger)

    async def live() -> None:
        client = Client()
        await client.check_health()
        await settle()
        assert client.checked == 1
        assert client.asked == [engine_heartbeat.PING]
        assert await Core()._call_utility_async("sleep", 1, engine=b"0") == 1
        assert await Core()._call_utility_async("collective_rpc", engine_heartbeat.PING, engine=b"0") == 0
        assert pinger.calls == 0

    asyncio.run(live())
    assert Processor().abort_requests(["a request"]) == ["a request"]
    assert pinger.aborted == 1
    assert read(tmp_path) is not None


def test_who_answers_a_ping_goes_back_to_sleep_and_who_has_worked_stays_awake() -> None:
    class Condition:
        """A reader that slept since 10 s on its clock."""

        def __init__(self) -> None:
            self.last_read, self.now = 10.0, 100.0

        def record_read(self) -> None:
            self.last_read = self.now

    class Worker:
        def check_health(self) -> None:
            pass

    worker: Any = Worker()
    engine_heartbeat.answer_pings(Worker, Condition)
    engine_heartbeat.answer_pings(Worker, Condition)
    worker.dynamoctl_ping()  # as in an engine of one process, where nobody reads
    reader = Condition()
    reader.record_read()
    worker.dynamoctl_ping()
    assert reader.last_read == 10
    reader.record_read()  # a call of another kind
    reader.now += 0.5
    reader.record_read()
    worker.dynamoctl_ping()
    assert reader.last_read == 100


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_vllm_has_what_the_ping_needs() -> None:
    script = """
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import AsyncMPClient
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.worker.worker_base import WorkerBase

wanted = [
    (AsyncLLM, "check_health"),
    (AsyncLLM, "collective_rpc"),
    (AsyncMPClient, "_call_utility_async"),
    (OutputProcessor, "abort_requests"),
    (OutputProcessor, "has_unfinished_requests"),
    (WorkerBase, "check_health"),
    (SpinCondition, "record_read"),
]
print(len(wanted), [name for owner, name in wanted if not callable(getattr(owner, name, None))])
"""
    assert last_line_with_vllm(script) == "7 []"
    assert engine_heartbeat.VARIABLE.startswith("DYNAMOCTL_")
