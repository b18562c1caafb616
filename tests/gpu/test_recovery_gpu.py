"""Workers that die or hang on GPUs come back, and have their memory back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from dynamoctl.host import gpus

from tests.e2e.conftest import Cli, chat, counter, free_port, post, wait_for
from tests.gpu.conftest import engine_of, two_places, visible

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
# The driver's own bookkeeping moves by some MiB.
SLACK_MIB = 64
ENGINE = ("--", "--enforce-eager", "--max-model-len", "4096")


def used() -> dict[int, int]:
    there = gpus.memory_used()
    return {gpu: there[gpu] for gpu in visible()[:2]}


@pytest.fixture(autouse=True)
def nothing_is_left(cli: Cli) -> Iterator[None]:
    before = used()
    yield
    down = cli("down", "--all")
    assert down.code == 0, down.err
    assert cli.ours() == {}
    wait_for(lambda: all(mib <= before[gpu] + SLACK_MIB for gpu, mib in used().items()), 30)


def units(cli: Cli) -> dict[str, dict[str, Any]]:
    return {unit["name"]: unit for unit in cli.status()["units"]}


def is_back(cli: Cli, restarts: dict[str, int]) -> bool:
    body = cli.status()
    assert body["state"] != "failed", body["error"]
    now = {unit["name"]: unit["restarts"] for unit in body["units"]}
    return body["state"] == "ready" and all(now[name] >= count for name, count in restarts.items())


def tell(cli: Cli, what: str) -> None:
    print(f"{what}: {used()} MiB in use, by process {gpus.memory_by_process()}, ours {units(cli).keys()}")


def test_a_killed_prefill_worker_has_its_memory_back_and_a_killed_decode_worker_too(cli: Cli) -> None:
    """At the default share of memory. With the set 1.4 decode has prefill's KV cache mapped, and goes too."""
    port = free_port()
    up = cli(
        "up", "disagg", "--gpus", two_places(), "--model", MODEL, "--lmcache-cpu-gb", "1",
        "--port", str(port), *ENGINE, patience_s=800,
    )  # fmt: skip
    assert up.code == 0, up.err
    endpoint = f"http://127.0.0.1:{port}"
    tell(cli, "ready")
    os.kill(units(cli)["prefill-0"]["pid"], signal.SIGKILL)
    wait_for(lambda: is_back(cli, {"prefill-0": 1}), 400)
    tell(cli, "prefill killed")
    assert "Paris" in chat(endpoint, MODEL, "What is the capital of France?")
    after = units(cli)
    assert after["prefill-0"]["restarts"] == 1
    print(f"decode was restarted {after['decode-0']['restarts']} times")
    before = after["decode-0"]["restarts"]
    os.kill(after["decode-0"]["pid"], signal.SIGKILL)
    wait_for(lambda: is_back(cli, {"decode-0": before + 1}), 400)
    tell(cli, "decode killed")
    assert "Paris" in chat(endpoint, MODEL, "What is the capital of France?")
    # What prefill holds nobody else has mapped.
    assert units(cli)["prefill-0"]["restarts"] == 1


def test_a_stopped_engine_is_seen_and_a_busy_one_is_not_taken_for_it(cli: Cli) -> None:
    port = free_port()
    up = cli(
        "up", "agg", "--gpus", "0", "--model", MODEL, "--lmcache-cpu-gb", "1", "--port", str(port),
        "--", "--enforce-eager", "--gpu-memory-utilization", "0.3", patience_s=800,
    )  # fmt: skip
    assert up.code == 0, up.err
    endpoint = f"http://127.0.0.1:{port}"
    longest = "The sea is wide and the sky is blue, said the sailor to his cat. " * 450
    for number in range(5):
        body = {"model": MODEL, "prompt": f"{number} {longest}", "max_tokens": 200, "ignore_eos": True}
        assert post(f"{endpoint}/v1/completions", body)["usage"]["completion_tokens"] == 200
        assert cli.status()["state"] == "ready"
    engine = engine_of(units(cli)["worker-0"]["pid"])
    os.kill(engine, signal.SIGSTOP)
    unit = wait_for(lambda: (u := units(cli)["worker-0"])["state"] == "unresponsive" and u, 20)
    assert unit["phase"].startswith("engine not answering for ")
    wait_for(lambda: is_back(cli, {"worker-0": 1}), 300)
    assert "Paris" in chat(endpoint, MODEL, "What is the capital of France?")


@pytest.mark.skipif(two_places() == "0,0", reason="needs two GPUs")
def test_one_of_two_prefill_workers_is_killed_and_requests_go_on(cli: Cli) -> None:
    """With the set 1.4 the only decode worker keeps its memory mapped, and is restarted at a quiet moment."""
    port = free_port()
    up = cli(
        "up", "disagg", "--gpus", "0,1,1", "--prefill", "2", "--model", MODEL, "--lmcache-cpu-gb", "1",
        "--port", str(port), *ENGINE, patience_s=800,
    )  # fmt: skip
    assert up.code == 0, up.err
    endpoint = f"http://127.0.0.1:{port}"
    for number in range(8):  # decode reads from both
        chat(endpoint, MODEL, f"{number}. What is the capital of France?")
    decode = units(cli)["decode-0"]
    assert counter(cli.units()["decode-0"]["ports"]["system"], "vllm:nixl_xfer_time_seconds_count") >= 8
    os.kill(units(cli)["prefill-0"]["pid"], signal.SIGKILL)
    wait_for(lambda: units(cli)["prefill-0"]["state"] in ("backoff", "starting"), 30)
    for number in range(20):
        assert chat(endpoint, MODEL, f"{number}. Name an animal.", max_tokens=4)
    tell(cli, "one prefill worker killed")
    assert units(cli)["decode-0"]["pid"] == decode["pid"]
    wait_for(lambda: is_back(cli, {"prefill-0": 1}), 400)
    assert "Paris" in chat(endpoint, MODEL, "What is the capital of France?")
