"""Processes of a deployment that stand still, by SIGSTOP, and what must come of it.

A process is named by its unit, or by its unit and what its own name or command line holds:
`worker-0/VLLM::EngineCore`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import psutil
from dynamoctl.host.processes import is_resource_tracker

from .conftest import Cli, chat, wait_for

MODEL = "smollm2-135m-instruct"
QUESTION, ANSWER_TOKENS = "What is the capital of France?", 32
TRACKER = "resource tracker"
# Of one look every 5 s, two without an answer, each of up to 10 s.
SEEN_S = 20.0


def unit_of(process: str) -> str:
    return process.partition("/")[0]


class Up:
    """A deployment that is up.

    Attributes:
        model: its served name.
        answer: what is in its answer to `QUESTION`.
    """

    def __init__(self, cli: Cli, port: int, model: str = MODEL, answer: str = "Paris") -> None:
        self.cli, self.endpoint = cli, f"http://127.0.0.1:{port}"
        self.model, self.answer = model, answer

    def units(self) -> dict[str, dict[str, Any]]:
        return {unit["name"]: unit for unit in self.cli.status()["units"]}

    def pid(self, process: str) -> int:
        unit, _, part = process.partition("/")
        first = int(self.units()[unit]["pid"])
        if not part:
            return first
        family = psutil.Process(first).children(recursive=True)
        if part == TRACKER:
            return next(one.pid for one in family if is_resource_tracker(one.pid))
        return next(one.pid for one in family if part in " ".join([one.name(), *one.cmdline()]))

    def is_another(self, unit: str, pid: int) -> bool:
        """Whether a unit has a process, and not this one."""
        return self.units()[unit]["pid"] not in (None, pid)

    def is_ready(self) -> bool:
        return bool(self.cli.status()["state"] == "ready")

    def restarts(self) -> dict[str, int]:
        return {name: unit["restarts"] for name, unit in self.units().items()}

    def assert_it_answers(self) -> None:
        """Each worker that clients reach, in turn."""
        for unit in self.units().values():
            if unit["role"] in ("agg", "decode"):
                assert self.answer in chat(self.endpoint, self.model, QUESTION, ANSWER_TOKENS)

    @contextlib.contextmanager
    def stopped(self, *processes: str) -> Iterator[None]:
        """These processes stand still."""
        pids = [self.pid(process) for process in processes]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def out_of_service(self, *processes: str) -> list[dict[str, Any]]:
        """The units of these processes, once all are out of service."""
        units = self.units()
        found = [units[unit_of(process)] for process in processes]
        return found if all(unit["state"] == "unresponsive" for unit in found) else []


def assert_it_goes_on_after_a_moment(up: Up, *together: tuple[str, ...]) -> None:
    """5 s are no reason to do anything."""
    before = up.restarts()
    for processes in together:
        with up.stopped(*processes):
            time.sleep(5)
    up.assert_it_answers()
    wait_for(up.is_ready, 30)
    assert up.restarts() == before


def assert_it_is_seen_and_comes_back(up: Up, *processes: str) -> None:
    """Half a minute is seen, and is no reason to restart anything."""
    before = up.restarts()
    began = time.monotonic()
    with up.stopped(*processes):
        units = wait_for(lambda: up.out_of_service(*processes), SEEN_S + 10)
        print(f"{processes}: out of ready after {time.monotonic() - began:.0f} s")
        for process, unit in zip(processes, units, strict=True):
            who = "engine not answering for " if "/" in process else "not answering for "
            assert unit["phase"].startswith(who)
        assert up.cli.status()["state"] == "degraded"
        time.sleep(max(0.0, began + 30 - time.monotonic()))
    wait_for(up.is_ready, 60)
    up.assert_it_answers()
    assert up.restarts() == before


def assert_they_are_restarted(up: Up, *processes: str) -> None:
    """Units with processes that stand still for good are started again, and nothing else is."""
    before = up.units()
    began = time.monotonic()
    with up.stopped(*processes):
        wait_for(lambda: up.out_of_service(*processes), SEEN_S + 10)
        for process in processes:
            unit = unit_of(process)
            wait_for(partial(up.is_another, unit, before[unit]["pid"]), 120)
        print(f"{processes}: started again after {time.monotonic() - began:.0f} s")
    wait_for(up.is_ready, 240)
    print(f"{processes}: ready after {time.monotonic() - began:.0f} s")
    up.assert_it_answers()
    after = up.units()
    assert {name: unit["restarts"] - before[name]["restarts"] for name, unit in after.items()} == {
        **dict.fromkeys(after, 0),
        **{unit_of(process): 1 for process in processes},
    }
