"""Prefill and decode in workers of their own, on the CPU: real vLLM, real NIXL transfers, LMCache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import prometheus
from .collector import Collector, running
from .conftest import Cli, Result, chat, free_port, shared_memory, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm-1"), pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
LONG = (
    "The sea is wide and the sky is blue, said the sailor to his cat. " * 20
)  # one whole chunk of LMCache's, and some


@dataclass
class Up:
    cli: Cli
    result: Result
    endpoint: str
    memory_before: set[str]

    def status(self) -> dict[str, Any]:
        return self.cli.status()

    @property
    def units(self) -> dict[str, dict[str, Any]]:
        return self.cli.units()


@pytest.fixture(scope="module")
def traced() -> Iterator[Collector]:
    with running() as one:
        yield one


@pytest.fixture(scope="module")
def up(cli: Cli, traced: Collector) -> Up:
    """One deployment for the module. Without the engines' own prefix cache, only LMCache can hit."""
    before = shared_memory()
    port = free_port()
    result = cli(
        "up", "disagg", "--device", "cpu", "--port", str(port), "--otlp-endpoint", traced.endpoint,
        "--", "--no-enable-prefix-caching", patience_s=800,
    )  # fmt: skip
    return Up(cli, result, f"http://127.0.0.1:{port}", before)


def test_it_comes_up_with_decode_before_prefill(up: Up) -> None:
    assert up.result.code == 0, up.result.err
    said = up.result.err
    assert 0 < said.index("decode-0: ready") < said.index("prefill-0: importing")


def test_ready_means_that_a_kv_cache_has_been_transferred(up: Up) -> None:
    """Nobody but `up` itself has asked for anything yet."""
    assert up.status()["transfers"]["count"] >= 1


def test_decode_transfers_and_prefill_also_caches(up: Up) -> None:
    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}
    decode, prefill = (up.units[name]["kv_transfer_config"] for name in ("decode-0", "prefill-0"))
    assert decode == nixl
    assert prefill["kv_connector"] == "MultiConnector"
    inner = prefill["kv_connector_extra_config"]["connectors"]
    assert [one["kv_connector"] for one in inner] == ["LMCacheMPConnector", "NixlConnector"]
    assert inner[1] == nixl


def test_the_workers_divide_the_cores(up: Up) -> None:
    """Two engines that each compute on every core starve each other."""
    threads = [int(up.units[name]["env"]["OMP_NUM_THREADS"]) for name in ("decode-0", "prefill-0")]
    assert sum(threads) <= max(2, len(os.sched_getaffinity(0)))


def test_chats_in_a_row_are_answered_right_each_by_a_transfer(up: Up) -> None:
    before = up.status()["transfers"]
    answers = [chat(up.endpoint, MODEL, "What is the capital of France?", max_tokens=12) for _ in range(6)]
    after = up.status()["transfers"]
    assert all("Paris" in answer for answer in answers), answers
    assert after["count"] - before["count"] == len(answers)
    assert after["bytes"] > before["bytes"]
    assert after["failed"] == 0


def test_one_trace_shows_what_each_unit_did_for_a_request(up: Up, traced: Collector) -> None:
    """The frontend, both of Dynamo's workers, and vLLM in each."""
    before = {span.trace for span in traced.spans()}
    chat(up.endpoint, MODEL, "What is the capital of Spain?", max_tokens=4)

    def is_whole() -> bool:
        new = [span for span in traced.spans() if span.trace not in before]
        traces = [[span for span in new if span.trace == trace] for trace in {span.trace for span in new}]
        return any(
            {span.service for span in trace} == {"frontend", "decode-0", "prefill-0"}
            and {span.service for span in trace if span.name == "llm_request"} == {"decode-0", "prefill-0"}
            for trace in traces
        )

    try:
        wait_for(is_whole, 30)
    finally:
        new = {span for span in traced.spans() if span.trace not in before}
        print(sorted((span.trace[:4], span.service, span.name) for span in new))


def test_a_long_prompt_asked_again_hits_lmcache_on_the_prefill_worker(up: Up) -> None:
    before = up.status()["cache"]
    first = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    second = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    after = up.status()["cache"]
    assert first == second
    assert after["hit_tokens"] - before["hit_tokens"] >= 256
    assert up.status()["transfers"]["failed"] == 0


def test_status_shows_roles_and_memory(up: Up) -> None:
    body = up.status()
    assert [(unit["name"], unit["role"]) for unit in body["units"]] == [
        ("frontend", "frontend"),
        ("lmcache", "cache"),
        ("decode-0", "decode"),
        ("prefill-0", "prefill"),
    ]
    assert all(unit["health"] == "ok" for unit in body["units"])
    for unit in body["units"][2:]:
        assert unit["memory_mib"] > 500
    shown = up.cli("status").out
    for words in ("decode-0", "prefill-0", "GiB", "KV transfers:", "0 failed"):
        assert words in shown


def test_every_expression_of_the_dashboard_has_values(up: Up, tmp_path: Path) -> None:
    """A real Prometheus scrapes the frontend, LMCache's server and both workers."""
    expressions = prometheus.expressions(up.cli)
    # No request has failed or been moved, and the engines' own prefix caches are off.
    without = {"Errors per second A", "Cache hit rate B", "Requests moved A"}
    assert without < expressions.keys()
    with prometheus.running(prometheus.exported(up.cli, tmp_path), tmp_path) as one:
        wait_for(lambda: set(one.targets().values()) == {"up"}, 60)
        assert len(one.targets()) == 4

        def silent() -> set[str]:
            """Those without a value, when something has been asked that LMCache has."""
            chat(up.endpoint, MODEL, LONG, max_tokens=4)
            return {name for name, expr in expressions.items() if not one.vector(expr)}

        def hit_rate() -> float:
            return float(one.vector(expressions["Cache hit rate A"])[0]["value"][1])

        def transferring() -> set[str]:
            """A unit is one of them once it has been scraped twice: not all are at the same time."""
            return {series["metric"]["unit"] for series in one.vector(expressions["Transfers per second A"])}

        wait_for(lambda: silent() <= without and hit_rate() > 0 and "decode-0" in transferring(), 120)
        assert hit_rate() <= 1


def test_down_leaves_nothing(up: Up) -> None:
    down = up.cli("down")
    assert down.code == 0, down.err
    assert up.cli.ours() == {}
    assert shared_memory() - up.memory_before == set()
    for name in ("decode-0", "prefill-0"):
        log = (up.cli.home / "deployments/default/logs" / f"{name}.log").read_text(errors="replace")
        assert "[shutdown] MPClient: complete" in log
