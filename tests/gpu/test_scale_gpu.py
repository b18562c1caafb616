"""A deployment on one GPU is changed while clients ask: they get whole answers, and memory comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from dynamoctl.host import gpus

from tests.e2e.conftest import Cli, chat, free_port, wait_for
from tests.e2e.streams import InFlight
from tests.gpu.conftest import on_gpus, visible

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
CLIENTS, TOKENS = 20, 400
PROMPTS = [f"Story number {number}. Once upon a time" for number in range(CLIENTS)]
# The driver's own bookkeeping moves by some MiB, and LMCache's server keeps what it has mapped once.
SLACK_MIB = 256


@dataclass
class Shared:
    """Aggregated workers that share the first GPU."""

    cli: Cli
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> dict[str, tuple[int, int]]:
        """The process of each worker, and how often it was started again."""
        units = self.cli.status()["units"]
        return {one["name"]: (one["pid"], one["restarts"]) for one in units if one["role"] == "agg"}

    def under_load(self, *words: str) -> None:
        """One command in the middle of answers: each of them is whole."""
        streams = InFlight(self.endpoint, MODEL, PROMPTS, TOKENS)
        streams.wait_until(lambda one: one.chunks >= 5, CLIENTS)
        done = self.cli(*words, patience_s=400)
        assert done.code == 0, done.err
        assert [one for one in streams.end(240) if not one.is_whole(TOKENS)] == []
        assert "Paris" in chat(self.endpoint, MODEL, "What is the capital of France?")
        wait_for(lambda: self.cli.status()["state"] == "ready")
        print(f"{words}: {used()} MiB in use, {self.workers()}")


def used() -> int:
    return gpus.memory_used()[visible()[0]]


@pytest.fixture(scope="module")
def shared(cli: Cli) -> Iterator[Shared]:
    before, port = used(), free_port()
    up = cli(
        "up", "agg", "--gpus", "0", "--model", MODEL, "--lmcache-cpu-gb", "1",
        "--port", str(port), "--drain", "30",
        "--", "--enforce-eager", "--gpu-memory-utilization", "0.15", "--max-model-len", "2048",
        patience_s=800,
    )  # fmt: skip
    assert up.code == 0, up.err
    yield Shared(cli, port)
    down = cli("down")
    assert down.code == 0, down.err
    wait_for(lambda: used() <= before + SLACK_MIB, 30)


def test_a_second_worker_comes_and_goes_on_the_same_gpu(shared: Shared) -> None:
    (first, alone), serving = shared.workers().popitem(), used()
    shared.under_load("scale", "worker", "2", "--gpus", "0")
    assert shared.workers()[first] == alone
    assert on_gpus(shared.cli) == {name: {visible()[0]} for name in ("worker-0", "worker-1")}
    assert used() > serving + 1000
    shared.under_load("scale", "worker", "1")
    assert shared.workers() == {first: alone}
    wait_for(lambda: used() <= serving + SLACK_MIB, 30)


def test_a_rolling_restart_replaces_a_worker_on_its_gpu(shared: Shared) -> None:
    """The new one serves before the old one goes, since there is room for both."""
    before, serving = shared.workers(), used()
    shared.under_load("restart", "--role", "agg")
    after = shared.workers()
    assert after.keys() == before.keys()
    assert all(after[name][0] != before[name][0] for name in before)
    wait_for(lambda: used() <= serving + SLACK_MIB, 30)


def test_workers_that_share_a_gpu_are_restarted_one_after_the_other(shared: Shared) -> None:
    shared.under_load("scale", "worker", "2", "--gpus", "0")
    before = shared.workers()
    shared.under_load("restart", "--role", "agg")
    after = shared.workers()
    assert after.keys() == before.keys()
    assert all(after[name][0] != before[name][0] for name in before)
