"""Processes of a real vLLM deployment that stand still, one at a time: what is seen of it, and what comes of
it.

Dynamo's status server lives in the worker's main process and answers for an engine that does not: without a
look at the engine itself, each of these would be `ready` for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Cli, free_port, post
from .standing_still import (
    MODEL,
    SEEN_S,
    TRACKER,
    Up,
    assert_it_goes_on_after_a_moment,
    assert_it_is_seen_and_comes_back,
    assert_they_are_restarted,
)

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm-2"), pytest.mark.timeout(600)]

ENGINE, WORKER = "worker-0/VLLM::EngineCore", "worker-0/VLLM::Worker"
# Each in turn, but for those of different units.
TOGETHER = [(ENGINE,), (WORKER,), ("worker-0", "lmcache", "frontend")]


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


@pytest.mark.fault(
    "SIGSTOP for 5 s to any process of a vLLM deployment: main, EngineCore, Worker, resource tracker,"
    " LMCache's server, frontend",
    "goes on; nothing is restarted",
)
def test_any_process_that_stands_still_for_a_moment_goes_on(up: Up) -> None:
    assert_it_goes_on_after_a_moment(up, *TOGETHER, (f"worker-0/{TRACKER}",))


@pytest.mark.fault(
    "SIGSTOP for 30 s to vLLM's main process, EngineCore or Worker, LMCache's server or the frontend",
    "says `not answering`, a worker out of discovery; serves again when it goes on",
)
@pytest.mark.parametrize("parts", TOGETHER)
def test_who_stands_still_for_half_a_minute_is_seen_and_comes_back(up: Up, parts: tuple[str, ...]) -> None:
    assert_it_is_seen_and_comes_back(up, *parts)


@pytest.mark.fault(
    "SIGSTOP for 90 s or for good to vLLM's main process, EngineCore or Worker, LMCache's server or the"
    " frontend",
    "restarts the unit within a minute",
)
@pytest.mark.parametrize("parts", TOGETHER)
def test_who_stands_still_for_good_is_restarted(up: Up, parts: tuple[str, ...]) -> None:
    """The worker three times in all, which is what is allowed in ten minutes."""
    assert_they_are_restarted(up, *parts)


@pytest.mark.fault(
    "SIGSTOP for good to a vLLM worker's resource tracker", "nothing: it has nothing to do until the end"
)
def test_a_resource_tracker_that_stands_still_does_no_harm(up: Up) -> None:
    before = up.restarts()
    with up.stopped(f"worker-0/{TRACKER}"):
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
        # All twelve at once take minutes on a machine that is busy with something else as well.
        answer = post(f"{up.endpoint}/v1/completions", body, patience_s=400)
        return int(answer["usage"]["completion_tokens"])

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, number) for number in range(12)]
        began = time.monotonic()
        while not all(one.done() for one in asked):
            states.add((up.cli.status()["state"], up.units()["worker-0"]["state"]))
            time.sleep(1)
        print(f"busy for {time.monotonic() - began:.0f} s")
        assert [one.result() for one in asked] == [40] * 12
    assert states == {("ready", "ready")}
