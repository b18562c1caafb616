"""`up disagg` on GPUs: NIXL between the workers, LMCache in the prefill engine.

One GPU is enough: the workers share it. With two, each has its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import Any

import pytest
from dynamoctl.host import gpus

from tests.e2e.conftest import Cli, Result, chat, counter, free_port, wait_for
from tests.gpu.conftest import (
    IN_PROCESS,
    assert_the_whole_prompt_comes_back,
    is_cache_connector,
    nvlink_kib,
    on_gpus,
    open_sockets,
    two_places,
    visible,
)

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
# `overlapped` is ready sooner: for a machine that is there for some minutes only.
START = os.environ.get("DYNAMOCTL_GPU_START", "ordered")
LONG = "The sea is wide and the sky is blue, said the sailor to his cat. " * 70
ENGINE = ("--", "--enforce-eager", "--gpu-memory-utilization", "0.3", "--max-model-len", "2048")
QUESTIONS = [
    "What is the capital of France?",
    "What colour is the sky?",
    "Name three fruits.",
    "How many days has a week?",
    "What is water made of?",
    "Who wrote Romeo and Juliet?",
    "What is two plus two?",
    "Say hello in Spanish.",
    "What do bees make?",
    "Which planet do we live on?",
    "What is the opposite of hot?",
    "Name an animal that can fly.",
    "What is ice?",
    "How do you make tea?",
    "What is a computer?",
    "Where does the sun rise?",
    "Write a short sentence about a dog.",
    "What is the largest ocean?",
    "Why do we sleep?",
    "Give me a word that rhymes with cat.",
]


@dataclass
class Up:
    cli: Cli
    result: Result
    endpoint: str
    used_before: dict[int, int]

    @property
    def units(self) -> dict[str, dict[str, Any]]:
        return self.cli.units()

    def counter(self, unit: str, name: str) -> float:
        return counter(self.units[unit]["ports"]["system"], name)


@pytest.fixture(scope="module")
def up(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Up:
    used = gpus.memory_used()
    port = free_port()
    config = tmp_path_factory.mktemp("config") / "d.toml"
    # Prefill has room for 2,048 tokens on the GPU, so that two long prompts push a third out.
    config.write_text('prefill_args = ["--num-gpu-blocks-override", "129"]\n')
    result = cli(
        "up", "disagg", "--gpus", two_places(), "--model", MODEL, "--lmcache-cpu-gb", "4",
        "--start", START, "--port", str(port), "--config", str(config), *ENGINE, patience_s=800,
    )  # fmt: skip
    print(result.err)
    return Up(cli, result, f"http://127.0.0.1:{port}", used)


def test_it_comes_up_each_where_it_belongs(up: Up) -> None:
    assert up.result.code == 0, up.result.err
    asked = [visible()[int(gpu)] for gpu in two_places().split(",")]
    assert [up.units[name]["gpus"] for name in ("decode-0", "prefill-0")] == [[gpu] for gpu in asked]
    body = up.cli.status()
    print(json.dumps(body, indent=1), open_sockets(up.cli))
    for number, gpu in enumerate(sorted(set(asked))):
        assert body["gpus"][number]["memory_used_mib"] > up.used_before[gpu] + 1000


@pytest.mark.skipif(START != "ordered", reason="both workers are started at once")
def test_decode_is_ready_before_prefill_starts(up: Up) -> None:
    assert 0 < up.result.err.index("decode-0: ready") < up.result.err.index("prefill-0: importing")


@pytest.mark.skipif(two_places() == "0,0", reason="needs two GPUs")
def test_nvml_finds_each_worker_on_its_gpu_alone(up: Up) -> None:
    decode, prefill = visible()[:2]
    assert on_gpus(up.cli) == {"decode-0": {decode}, "prefill-0": {prefill}}


@pytest.mark.skipif(two_places() == "0,0", reason="needs two GPUs")
def test_the_kv_cache_goes_over_nvlink_where_there_is_one(up: Up) -> None:
    """What NVLink has carried, as the driver counts it (in KiB), is what NIXL has transferred."""
    decode, prefill = visible()[:2]
    names = ("vllm:nixl_xfer_time_seconds_sum", "vllm:nixl_bytes_transferred_sum")
    for number in range(3):  # the connection, and the first transfers
        chat(up.endpoint, MODEL, LONG.replace("sea", f"sea {number}"), max_tokens=2)
    link = nvlink_kib(decode), nvlink_kib(prefill)
    before = [up.counter("decode-0", name) for name in names]
    for number in range(10):
        chat(up.endpoint, MODEL, LONG.replace("sky", f"sky {number}"), max_tokens=2)
    time.sleep(2)
    seconds, size = (up.counter("decode-0", name) - was for name, was in zip(names, before, strict=True))
    sent = [
        None if now is None or was is None else (now - was) * 1024
        for now, was in zip((nvlink_kib(decode), nvlink_kib(prefill)), link, strict=True)
    ]
    topology = subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True, check=False)
    print(topology.stdout)
    print(f"{size:.0f} bytes in {seconds:.3f} s of transfers: {size / seconds / 1e9:.2f} GB/s")
    print(f"NVLink, bytes sent by decode's GPU and by prefill's: {sent}")
    assert size > 100e6
    if None not in sent and "NV" in topology.stdout.splitlines()[1]:
        assert sum(filter(None, sent)) >= 0.99 * size


def test_decode_transfers_and_prefill_caches_and_transfers(up: Up) -> None:
    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    assert up.units["decode-0"]["kv_transfer_config"] == nixl
    both = up.units["prefill-0"]["kv_transfer_config"]
    cache, _ = both["kv_connector_extra_config"]["connectors"]
    assert is_cache_connector(cache)
    assert both == {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [cache, nixl]},
        **({} if IN_PROCESS else {"kv_load_failure_policy": "recompute"}),
    }


def test_a_long_prompt_asked_again_comes_out_of_lmcache_on_prefill(up: Up) -> None:
    hits = "vllm:external_prefix_cache_hits_total"
    before, seen_before = up.counter("prefill-0", hits), up.cli.status()["cache"]
    first = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    for word in ("river", "forest"):
        chat(up.endpoint, MODEL, LONG.replace("sea", word), max_tokens=4)
    assert up.counter("prefill-0", hits) == before
    second = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    after, seen = up.counter("prefill-0", hits), up.cli.status()["cache"]
    print(f"{hits} on prefill: {before} -> {after}; status: {seen_before} -> {seen}")
    assert first == second
    assert after - before >= 512
    assert seen["hit_tokens"] - seen_before["hit_tokens"] >= 512


def test_what_comes_back_of_a_whole_prompt_is_what_was_kept(up: Up) -> None:
    """By way of LMCache and NIXL, in NIXL's layout of the KV cache."""
    assert_the_whole_prompt_comes_back(up.cli, up.endpoint, MODEL, LONG)


def test_greedy_answers_are_those_of_an_aggregated_worker_and_each_was_transferred(up: Up) -> None:
    """Last for this deployment: it takes it down, and brings up an aggregated one."""
    before = up.cli.status()["transfers"]
    disaggregated = [chat(up.endpoint, MODEL, question, max_tokens=24) for question in QUESTIONS]
    after = up.cli.status()["transfers"]
    print(f"transfers: {before} -> {after}")
    assert "Paris" in disaggregated[0]
    assert after["count"] - before["count"] >= len(QUESTIONS)
    assert after["failed"] == 0
    down = up.cli("down")
    assert down.code == 0, down.err
    port = free_port()
    agg = up.cli(
        "up", "agg", "--gpus", "0", "--model", MODEL, "--lmcache-cpu-gb", "4", "--port", str(port), *ENGINE,
        patience_s=800,
    )  # fmt: skip
    assert agg.code == 0, agg.err
    print(agg.err)
    aggregated = [chat(f"http://127.0.0.1:{port}", MODEL, question, max_tokens=24) for question in QUESTIONS]
    assert aggregated == disaggregated


def test_down_gives_the_memory_of_every_gpu_back(up: Up) -> None:
    down = up.cli("down")
    assert down.code == 0, down.err
    assert up.cli.ours() == {}
    # The driver's own bookkeeping moves by some MiB.
    wait_for(lambda: all(gpus.memory_used()[i] <= up.used_before[i] + 64 for i in visible()), 30)
    print(f"MiB in use before: {up.used_before}, after: {gpus.memory_used()}")


def test_the_kv_router_hears_of_a_prefix_and_two_that_share_a_gpu_start_together(
    cli: Cli,
) -> None:
    """Both start at once on one GPU, with a size given to each one's KV cache."""
    port = free_port()
    result = cli(
        "up", "disagg", "--gpus", "0,0", "--model", MODEL, "--lmcache-cpu-gb", "4", "--port", str(port),
        "--start", "overlapped", "--router-mode", "kv", *ENGINE, patience_s=800,
    )  # fmt: skip
    print(result.err)
    assert result.code == 0, result.err
    endpoint = f"http://127.0.0.1:{port}"
    for _ in range(2):
        assert "Paris" in chat(endpoint, MODEL, "What is the capital of France?")
        chat(endpoint, MODEL, LONG, max_tokens=2)
    # A share of the prompt for each request; only events from the workers tell the router what they hold.
    hits = counter(port, "dynamo_component_router_kv_hit_rate_sum")
    print(open_sockets(cli))
    print(f"dynamo_component_router_kv_hit_rate_sum: {hits}")
    assert hits >= 1
    assert cli("down").code == 0
