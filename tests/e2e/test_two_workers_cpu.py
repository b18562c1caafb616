"""Two real vLLM workers in one deployment: one dies in the middle of answers, processes stand still, all are
killed at once.

With a second worker of its role, no client notices that one dies. And Dynamo's status server lives in the
worker's main process and answers for an engine that does not: without a look at the engine itself, one that
stands still would be `ready` for ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from dynamoctl.operations import changes

from .conftest import Cli, free_port, outside, wait_for
from .killing import kill_at_once
from .small_model import ENGINE_ARGS, NAME, SmallModel
from .standing_still import (
    ANSWER_TOKENS,
    QUESTION,
    TRACKER,
    Up,
    assert_it_goes_on_after_a_moment,
    assert_it_is_seen_and_comes_back,
    assert_they_are_restarted,
)
from .streams import InFlight, moved

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm-2"), pytest.mark.timeout(600)]

CLIENTS = 20
TOKENS = 150
PROMPTS = [f"Story number {number}. Once upon a time" for number in range(CLIENTS)]
ENGINE_CORE = pytest.mark.fault("SIGKILL to vLLM's EngineCore", "restarts the worker; ready again")
# Those of different units at the same time. With what is killed here no worker ends more than three times,
# which is what is allowed in ten minutes.
TOGETHER = [("worker-0/VLLM::EngineCore", "worker-1/VLLM::Worker"), ("worker-1", "lmcache", "frontend")]
STILL_TRACKER = f"worker-0/{TRACKER}"


class Pair(Up):
    """A deployment for the module: a test takes it down, and another one brings it up again."""

    def __init__(self, cli: Cli, small: SmallModel) -> None:
        self.port, self.small = free_port(), small
        self.outside_before = outside()
        super().__init__(cli, self.port, NAME, small.chats(QUESTION, ANSWER_TOKENS))

    def be_up(self) -> None:
        if not self.is_ready():
            done = self.cli(
                "up", "agg", "--workers", "2", "--device", "cpu", *self.small.words, "--lmcache-cpu-gb", "1",
                "--port", str(self.port), "--start", "overlapped", "--drain", "0", "--", *ENGINE_ARGS,
                patience_s=500,
            )  # fmt: skip
            assert done.code == 0, done.err

    def pids(self) -> dict[str, int]:
        return {name: unit["pid"] for name, unit in self.units().items()}


@pytest.fixture(scope="module")
def deployment(cli: Cli, small: SmallModel) -> Iterator[Pair]:
    yield Pair(cli, small)
    down = cli("down")
    assert down.code == 0, down.err


@pytest.fixture(scope="module")
def undisturbed(deployment: Pair) -> list[str]:
    """What the workers answer if nobody disturbs them."""
    deployment.be_up()
    answers = InFlight(deployment.endpoint, NAME, PROMPTS, TOKENS).end(240)
    assert all(one.is_whole(TOKENS) for one in answers), answers
    assert answers[0].text == deployment.small.continues(PROMPTS[0], TOKENS)
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
    moved_before, before, restarts = moved(up.cli, "default"), up.pids(), up.restarts()[unit]
    victim = up.pid(f"{unit}/VLLM::EngineCore") if engine else before[unit]
    streams = InFlight(up.endpoint, NAME, PROMPTS, TOKENS)
    # Not for all: on a busy host the first are through before the last have begun.
    streams.wait_until(lambda one: one.chunks >= 5, CLIENTS // 2)
    os.kill(victim, signal.SIGKILL)
    answers = streams.end(240)
    assert all(one.is_whole(TOKENS) for one in answers), answers
    assert [one.text for one in answers] == undisturbed
    assert moved(up.cli, "default") >= moved_before + CLIENTS // 4
    wait_for(lambda: up.is_ready() and up.restarts()[unit] == restarts + 1, 240)
    after = up.pids()
    assert {name for name in before if after[name] != before[name]} == {unit}


def test_answers_of_vllm_are_the_same_while_workers_come_and_go(undisturbed: list[str], up: Pair) -> None:
    """With `--drain 0` nothing is waited for: the other worker goes on with what was begun."""
    moved_before, before = moved(up.cli, "default"), up.pids()
    for count in (1, 2):
        # Not by the command: until that has started, the answers are through.
        with up.cli.here():
            proposal = changes.scale("default", "worker", count)
            streams = InFlight(up.endpoint, NAME, PROMPTS, TOKENS)
            streams.wait_until(lambda one: one.chunks >= 5, CLIENTS // 2)
            changes.carry_out(proposal, print)
        answers = streams.end(240)
        assert [one for one in answers if not one.is_whole(TOKENS)] == []
        assert [one.text for one in answers] == undisturbed
    assert moved(up.cli, "default") >= moved_before + CLIENTS // 4
    wait_for(up.is_ready)
    after = up.pids()
    assert {name for name in before if after[name] != before[name]} == {"worker-1"}
    # The new one, which has half of these, computes as the others do.
    answers = InFlight(up.endpoint, NAME, PROMPTS[:6], TOKENS).end(240)
    assert [one.text for one in answers] == undisturbed[:6]


@pytest.mark.fault(
    "vLLM, LMCache, trackers and supervisor are killed at once, then `down`",
    "`down` removes what they have left",
)
def test_down_removes_what_those_that_were_killed_at_once_have_left(up: Pair) -> None:
    assert kill_at_once(up.cli, "default")
    assert outside() != up.outside_before
    down = up.cli("down")
    assert down.code == 0, down.err
    assert outside() == up.outside_before
