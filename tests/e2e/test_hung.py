"""Processes of a real vLLM deployment that stand still, one at a time: what is seen of it, and what comes of
it.

Dynamo's status server answers for an engine that does not: without a look at the engine itself, each of these
would be `ready` for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psutil
import pytest
from dynamoctl.host.processes import is_resource_tracker

from .conftest import Cli, chat, free_port, post, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm-2"), pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
# Of one look every 5 s, two without an answer, each of up to 10 s.
SEEN_S = 20.0


class Up:
    def __init__(self, cli: Cli, port: int) -> None:
        self.cli, self.endpoint = cli, f"http://127.0.0.1:{port}"

    def units(self) -> dict[str, dict[str, Any]]:
        return {unit["name"]: unit for unit in self.cli.status()["units"]}

    def process(self, what: str) -> int:
        """A unit's first process, or one below the worker's."""
        units = self.units()
        if what in units:
            return int(units[what]["pid"])
        family = psutil.Process(units["worker-0"]["pid"]).children(recursive=True)
        if what == "resource tracker":
            return next(one.pid for one in family if is_resource_tracker(one.pid))
        return next(one.pid for one in family if what in " ".join([one.name(), *one.cmdline()]))

    def is_another(self, unit: str, pid: int) -> bool:
        """Whether a unit has a process, and not this one."""
        return self.units()[unit]["pid"] not in (None, pid)

    def is_ready(self) -> bool:
        return bool(self.cli.status()["state"] == "ready")

    def restarts(self) -> dict[str, int]:
        return {name: unit["restarts"] for name, unit in self.units().items()}

    def assert_it_answers(self) -> None:
        assert "Paris" in chat(self.endpoint, MODEL, "What is the capital of France?")


@pytest.fixture(scope="module")
def up(cli: Cli) -> Iterator[Up]:
    port = free_port()
    started = cli(
        "up", "agg", "--device", "cpu", "--lmcache-cpu-gb", "1", "--port", str(port), patience_s=500
    )
    assert started.code == 0, started.err
    yield Up(cli, port)
    down = cli("down")
    assert down.code == 0, down.err


@contextlib.contextmanager
def stopped(parts: tuple[str, ...], up: Up) -> Iterator[None]:
    """These processes stand still."""
    pids = [up.process(what) for what in parts]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


PARTS = {
    "worker-0": "worker-0",
    "VLLM::EngineCore": "worker-0",
    "VLLM::Worker": "worker-0",
    "lmcache": "lmcache",
    "frontend": "frontend",
}
WORDS = {
    "VLLM::EngineCore": "engine not answering for ",
    "VLLM::Worker": "engine not answering for ",
}


# Each in turn, but for those of different units.
TOGETHER = [("VLLM::EngineCore",), ("VLLM::Worker",), ("worker-0", "lmcache", "frontend")]


def out_of_service(up: Up, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """The units of these processes, once all are out of service."""
    units = up.units()
    found = [units[PARTS[what]] for what in parts]
    return found if all(unit["state"] == "unresponsive" for unit in found) else []


@pytest.mark.fault(
    "SIGSTOP for 5 s to any process of a vLLM deployment: main, EngineCore, Worker, resource tracker,"
    " LMCache's server, frontend",
    "goes on; nothing is restarted",
)
def test_any_process_that_stands_still_for_a_moment_goes_on(up: Up) -> None:
    before = up.restarts()
    for parts in (*TOGETHER, ("resource tracker",)):
        with stopped(parts, up):
            time.sleep(5)
    up.assert_it_answers()
    wait_for(up.is_ready, 30)
    assert up.restarts() == before


@pytest.mark.fault(
    "SIGSTOP for 30 s to vLLM's main process, EngineCore or Worker, LMCache's server or the frontend",
    "says `not answering`, a worker out of discovery; serves again when it goes on",
)
@pytest.mark.parametrize("parts", TOGETHER)
def test_who_stands_still_for_half_a_minute_is_seen_and_comes_back(up: Up, parts: tuple[str, ...]) -> None:
    before = up.restarts()
    began = time.monotonic()
    with stopped(parts, up):
        units = wait_for(lambda: out_of_service(up, parts), SEEN_S + 10)
        print(f"{parts}: out of ready after {time.monotonic() - began:.0f} s")
        for what, unit in zip(parts, units, strict=True):
            assert unit["phase"].startswith(WORDS.get(what, "not answering for "))
        assert up.cli.status()["state"] == "degraded"
        time.sleep(max(0.0, began + 30 - time.monotonic()))
    wait_for(up.is_ready, 60)
    up.assert_it_answers()
    assert up.restarts() == before


@pytest.mark.fault(
    "SIGSTOP for 90 s or for good to vLLM's main process, EngineCore or Worker, LMCache's server or the"
    " frontend",
    "restarts the unit within a minute",
)
@pytest.mark.parametrize("parts", TOGETHER)
def test_who_stands_still_for_good_is_restarted(up: Up, parts: tuple[str, ...]) -> None:
    """The worker three times in all, which is what is allowed in ten minutes."""
    before = up.units()
    began = time.monotonic()
    with stopped(parts, up):
        wait_for(lambda: out_of_service(up, parts), SEEN_S + 10)
        for what in parts:
            old = before[PARTS[what]]["pid"]
            wait_for(partial(up.is_another, PARTS[what], old), 120)
        print(f"{parts}: started again after {time.monotonic() - began:.0f} s")
    wait_for(up.is_ready, 240)
    print(f"{parts}: ready after {time.monotonic() - began:.0f} s")
    up.assert_it_answers()
    after = up.units()
    assert {name: unit["restarts"] - before[name]["restarts"] for name, unit in after.items()} == {
        **dict.fromkeys(after, 0),
        **{PARTS[what]: 1 for what in parts},
    }


@pytest.mark.fault(
    "SIGSTOP for good to a vLLM worker's resource tracker", "nothing: it has nothing to do until the end"
)
def test_a_resource_tracker_that_stands_still_does_no_harm(up: Up) -> None:
    before = up.restarts()
    with stopped(("resource tracker",), up):
        time.sleep(SEEN_S)
        assert up.is_ready()
        up.assert_it_answers()
    assert up.restarts() == before


@pytest.mark.fault("a vLLM worker computes its longest prompts, many at once", "is ready all the time")
def test_a_busy_worker_is_not_taken_for_one_that_hangs(up: Up) -> None:
    longest = "The sea is wide and the sky is blue, said the sailor to his cat. " * 110
    states = set()

    def ask(number: int) -> int:
        body = {"model": MODEL, "prompt": f"{number}. {longest}", "max_tokens": 40, "ignore_eos": True}
        return int(post(f"{up.endpoint}/v1/completions", body)["usage"]["completion_tokens"])

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, number) for number in range(12)]
        began = time.monotonic()
        while not all(one.done() for one in asked):
            states.add((up.cli.status()["state"], up.units()["worker-0"]["state"]))
            time.sleep(1)
        print(f"busy for {time.monotonic() - began:.0f} s")
        assert [one.result() for one in asked] == [40] * 12
    assert states == {("ready", "ready")}
