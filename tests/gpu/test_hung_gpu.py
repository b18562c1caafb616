"""Processes of deployments on GPUs that stand still, each in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Cli, free_port
from tests.e2e.standing_still import (
    MODEL,
    Up,
    assert_it_goes_on_after_a_moment,
    assert_it_is_seen_and_comes_back,
    assert_they_are_restarted,
)
from tests.gpu.conftest import two_places

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900)]

SHARE = ("--enforce-eager", "--max-model-len", "4096", "--gpu-memory-utilization", "0.2")
# The processes that compute are EngineCores: with one GPU each there are no Worker processes.
PROCESSES = {
    "agg": (("worker-0", "frontend"), ("worker-0/VLLM::EngineCore",)),
    "disagg": (("decode-0", "frontend"), ("prefill-0/VLLM::EngineCore",), ("decode-0/VLLM::EngineCore",)),
}


@pytest.fixture(scope="module", params=list(PROCESSES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def up(cli: Cli, kind: str) -> Iterator[Up]:
    port = free_port()
    places = "0" if kind == "agg" else two_places()
    started = cli(
        "up", kind, "--gpus", places, "--model", MODEL, "--lmcache-cpu-gb", "1", "--port", str(port),
        "--", *SHARE, patience_s=800,
    )  # fmt: skip
    assert started.code == 0, started.err
    yield Up(cli, port)
    down = cli("down")
    assert down.code == 0, down.err


def test_who_stands_still_for_a_moment_goes_on(up: Up, kind: str) -> None:
    assert_it_goes_on_after_a_moment(up, *PROCESSES[kind])


def test_who_stands_still_for_half_a_minute_is_seen_and_comes_back(up: Up, kind: str) -> None:
    for processes in PROCESSES[kind]:
        assert_it_is_seen_and_comes_back(up, *processes)


def test_who_stands_still_for_good_is_restarted(up: Up, kind: str) -> None:
    """Decode keeps prefill's memory mapped, and stays: there is room for another fifth of the GPU."""
    for processes in PROCESSES[kind]:
        assert_they_are_restarted(up, *processes)
