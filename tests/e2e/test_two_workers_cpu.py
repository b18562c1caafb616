"""Two real vLLM workers in one deployment: one dies in the middle of answers, processes stand still, all are
killed at once.

With a second worker of its role, no client notices that one dies. And Dynamo's status server lives in the
worker's main process and answers for an engine that does not: without a look at the engine itself, one that
stands still would be `ready` for ever.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Cli, free_port, outside, post, wait_for
from .killing import kill_at_once
from .standing_still import (
    MODEL,
    SEEN_S,
    TRACKER,
    Up,
    assert_it_goes_on_after_a_moment,
    assert_it_is_seen_and_comes_back,
    assert_they_are_restarted,
)
from .streams import InFlight, moved

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm-2"), pytest.mark.timeout(600)]

NAME = "default"
CLIENTS = 20
TOKENS = 40
PROMPTS = [f"Story number {number}. Once upon a time" for number in range(CLIENTS)]
ENGINE_CORE = pytest.mark.fault("SIGKILL to vLLM's EngineCore", "restarts the worker; ready again")
# Those of different units at the same time. With what is killed here no worker ends more than three times,
# which is what is allowed in ten minutes.
TOGETHER = [("worker-0/VLLM::EngineCore", "worker-1/VLLM::Worker"), ("worker-1", "lmcache", "frontend")]
STILL_TRACKER = f"worker-0/{TRACKER}"


class Pair(Up):
    """A deployment for the module: a test takes it down, and another one brings it up again."""

    def __init__(self, cli: Cli) -> None:
        self.port = free_port()
        self.outside_before = outside()
        super().__init__(cli, self.port)

    def be_up(self) -> None:
        if not self.is_ready():
            done = self.cli(
                "up", "agg", "--workers", "2", "--device", "cpu", "--lmcache-cpu-gb", "1", "--port",
                str(self.port), "--start", "overlapped", "--drain", "0", patience_s=500,
            )  # fmt: skip
            assert done.code == 0, done.err

    def pids(self) -> dict[str, int]:
        return {name: unit["pid"] for name, unit in self.units().items()}


@pytest.fixture(scope="module")
def deployment(cli: Cli) -> Iterator[Pair]:
    yield Pair(cli)
    down = cli("down")
    assert down.code == 0, down.err


@pytest.fixture(scope="module")
def undisturbed(deployment: Pair) -> list[str]:
    """What the workers answer if nobody disturbs them."""
    # On a CPU the built-in model is served in float32, in which the greedy text does not depend on what else
    # is computed with it, nor on how the tokens before came to be there.
    deployment.be_up()
    answers = InFlight(deployment.endpoint, MODEL, PROMPTS, TOKENS).end(240)
    assert all(one.is_whole(TOKENS) for one in answers), answers
    return [one.text for one in answers]


@pytest.fixture
def up(deployment: Pair) -> Pair:
    deployment.be_up()
    return deployment


@pytest.mark.fault(
    "SIGSTOP for 5 s to any process of a vLLM deployment: main, EngineCore, Worker, resource tracker,"
    " LMCache's server, frontend",
    "goes on; nothing is restarted",
)
def test_any_process_that_stands_still_for_a_moment_goes_on(up: Pair) -> None:
    assert_it_goes_on_after_a_moment(up, TOGETHER[0], (*TOGETHER[1], STILL_TRACKER))


@pytest.mark.fault(
    "SIGSTOP for 30 s to vLLM's main process, EngineCore or Worker, LMCache's server or the frontend",
    "says `not answering`, a worker out of discovery; serves again when it goes on",
)
@pytest.mark.parametrize("parts", TOGETHER)
def test_who_stands_still_for_half_a_minute_is_seen_and_comes_back(up: Pair, parts: tuple[str, ...]) -> None:
    assert_it_is_seen_and_comes_back(up, *parts)


@pytest.mark.fault(
    "SIGSTOP for 90 s or for good to vLLM's main process, EngineCore or Worker, LMCache's server or the"
    " frontend",
    "restarts the unit within a minute",
)
@pytest.mark.parametrize("parts", TOGETHER)
def test_who_stands_still_for_good_is_restarted(up: Pair, parts: tuple[str, ...]) -> None:
    assert_they_are_restarted(up, *parts)


@pytest.mark.fault("a vLLM worker computes its longest prompts, many at once", "is ready all the time")
@pytest.mark.fault(
    "SIGSTOP for good to a vLLM worker's resource tracker", "nothing: it has nothing to do until the end"
)
def test_busy_workers_are_not_taken_for_some_that_hang(up: Pair) -> None:
    """Nor does it matter to them, or to anybody, that a resource tracker stands still."""
    longest = "The sea is wide and the sky is blue, said the sailor to his cat. " * 110
    restarts, states = up.restarts(), set()

    def ask(number: int) -> int:
        body = {"model": MODEL, "prompt": f"{number}. {longest}", "max_tokens": 40, "ignore_eos": True}
        # All of them at once take minutes on a machine that is busy with something else as well.
        answer = post(f"{up.endpoint}/v1/completions", body, patience_s=400)
        return int(answer["usage"]["completion_tokens"])

    with up.stopped(STILL_TRACKER), ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(4)]
        began = time.monotonic()
        while not all(one.done() for one in asked) or time.monotonic() - began < SEEN_S:
            states.add((up.cli.status()["state"], *(unit["state"] for unit in up.units().values())))
            time.sleep(1)
        print(f"busy for {time.monotonic() - began:.0f} s")
        assert [one.result() for one in asked] == [40] * 4
        up.assert_it_answers()
    assert states == {("ready",) * 5}
    assert up.restarts() == restarts


@pytest.mark.parametrize(
    ("unit", "engine"),
    [
        pytest.param(
            unit,
            engine,
            marks=[
                pytest.mark.fault(
                    f"SIGKILL to {what} in the middle of answers",
                    "its requests go on at the other one, with the text of an undisturbed run; restarts it",
                ),
                *rows,
            ],
        )
        for unit, engine, what, rows in (
            ("worker-0", False, "one of two vLLM workers", ()),
            ("worker-1", True, "the EngineCore of one of two vLLM workers", (ENGINE_CORE,)),
        )
    ],
    ids=["worker", "engine"],
)
def test_answers_of_vllm_go_on_and_say_the_same(
    undisturbed: list[str], up: Pair, unit: str, engine: bool
) -> None:
    moved_before, before, restarts = moved(up.cli, NAME), up.pids(), up.restarts()[unit]
    victim = up.pid(f"{unit}/VLLM::EngineCore") if engine else before[unit]
    streams = InFlight(up.endpoint, MODEL, PROMPTS, TOKENS)
    # Not for all: on a busy host the first are through before the last have begun.
    streams.wait_until(lambda one: one.chunks >= 5, CLIENTS // 2)
    os.kill(victim, signal.SIGKILL)
    answers = streams.end(240)
    assert all(one.is_whole(TOKENS) for one in answers), answers
    assert [one.text for one in answers] == undisturbed
    assert moved(up.cli, NAME) >= moved_before + CLIENTS // 4
    wait_for(lambda: up.is_ready() and up.restarts()[unit] == restarts + 1, 240)
    after = up.pids()
    assert {name for name in before if after[name] != before[name]} == {unit}


def test_answers_of_vllm_are_the_same_while_workers_come_and_go(undisturbed: list[str], up: Pair) -> None:
    """With `--drain 0` nothing is waited for: the other worker goes on with what was begun."""
    moved_before, before = moved(up.cli, NAME), up.pids()
    for count in ("1", "2"):
        streams = InFlight(up.endpoint, MODEL, PROMPTS, TOKENS)
        streams.wait_until(lambda one: one.chunks >= 5, CLIENTS // 2)
        scaled = up.cli("scale", "worker", count, patience_s=400)
        assert scaled.code == 0, scaled.err
        answers = streams.end(240)
        assert [one for one in answers if not one.is_whole(TOKENS)] == []
        assert [one.text for one in answers] == undisturbed
    assert moved(up.cli, NAME) >= moved_before + CLIENTS // 4
    wait_for(up.is_ready)
    after = up.pids()
    assert {name for name in before if after[name] != before[name]} == {"worker-1"}
    # The new one, which has half of these, computes as the others do.
    answers = InFlight(up.endpoint, MODEL, PROMPTS[:6], TOKENS).end(240)
    assert [one.text for one in answers] == undisturbed[:6]


@pytest.mark.fault(
    "vLLM, LMCache, trackers and supervisor are killed at once, then `down`",
    "`down` removes what they have left",
)
def test_down_removes_what_those_that_were_killed_at_once_have_left(up: Pair) -> None:
    assert kill_at_once(up.cli, NAME)
    assert outside() != up.outside_before
    down = up.cli("down")
    assert down.code == 0, down.err
    assert outside() == up.outside_before
