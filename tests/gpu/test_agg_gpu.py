"""`up agg` on one GPU: LMCache in its default mode, hits proven, memory given back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from dynamoctl.host import gpus
from dynamoctl.host.processes import identify, is_running

from tests.e2e.conftest import Cli, Result, chat, counter, free_port, wait_for
from tests.gpu.conftest import assert_the_whole_prompt_comes_back, is_cache_connector, visible

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
LONG = "The sea is wide and the sky is blue, said the sailor to his cat. " * 70


@dataclass
class Up:
    cli: Cli
    result: Result
    endpoint: str
    gpu: int
    used_before: int

    @property
    def worker(self) -> dict[str, Any]:
        return self.cli.units()["worker-0"]

    def counter(self, name: str) -> float:
        return counter(self.worker["ports"]["system"], name)


@pytest.fixture(scope="module")
def up(cli: Cli) -> Up:
    gpu = visible()[0]
    used = gpus.memory_used()[gpu]
    port = free_port()
    result = cli(
        "up", "agg", "--gpus", "0", "--model", MODEL, "--lmcache-cpu-gb", "4", "--port", str(port),
        "--", "--enforce-eager", "--gpu-memory-utilization", "0.3",
        # Room for 2,048 tokens, so that two long prompts outgrow it.
        "--max-model-len", "2048", "--num-gpu-blocks-override", "129", patience_s=800,
    )  # fmt: skip
    print(result.err)
    return Up(cli, result, f"http://127.0.0.1:{port}", gpu, used)


def test_it_comes_up_on_the_gpu_with_lmcache(up: Up) -> None:
    assert up.result.code == 0, up.result.err
    worker = up.worker
    assert is_cache_connector(worker["kv_transfer_config"])
    assert worker["gpus"] == [up.gpu]
    assert up.cli.status()["units"][-1]["gpus"] == [up.gpu]
    assert gpus.memory_used()[up.gpu] > up.used_before + 1000  # MiB


def test_it_answers(up: Up) -> None:
    assert "Paris" in chat(up.endpoint, MODEL, "What is the capital of France?")


def test_a_long_prompt_asked_again_comes_out_of_lmcache(up: Up) -> None:
    """The GPU's own prefix cache is outgrown in between by two other prompts."""
    hits = "vllm:external_prefix_cache_hits_total"
    before, status_before = up.counter(hits), up.cli.status()["cache"]
    first = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    for word in ("river", "forest"):
        chat(up.endpoint, MODEL, LONG.replace("sea", word), max_tokens=4)
    assert up.counter(hits) == before
    second = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    after, status_after = up.counter(hits), up.cli.status()["cache"]
    print(f"{hits}: {before} -> {after}; status: {status_before} -> {status_after}")
    assert first == second
    assert after - before >= 512
    assert status_after["hit_tokens"] - status_before["hit_tokens"] >= 512


def test_what_comes_back_of_a_whole_prompt_is_what_was_kept(up: Up) -> None:
    assert_the_whole_prompt_comes_back(up.cli, up.endpoint, MODEL, LONG)


def test_down_gives_the_gpu_memory_back(up: Up) -> None:
    """Last in this module."""
    ours = {one for pid in up.cli.ours() if (one := identify(pid)) is not None}
    assert ours
    down = up.cli("down")
    print(down.err)
    assert down.code == 0, down.err
    assert up.cli.ours() == {}
    # The driver's own bookkeeping moves by some MiB.
    wait_for(lambda: gpus.memory_used()[up.gpu] <= up.used_before + 64, patience_s=30)
    held = gpus.memory_by_process().get(up.gpu, {})
    assert not {one.pid for one in ours} & held.keys()
    # A zombie that a container's init does not reap holds nothing.
    assert not any(is_running(one) for one in ours)
