"""What is seen of a running deployment: KV transfers, memory, and how `status` shows them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from dynamoctl.answers.status import GpuStatus, LoadStatus, StatusAnswer
from dynamoctl.cli.draw import draw_status
from dynamoctl.facts import Gpu
from dynamoctl.host import gpus, processes
from dynamoctl.host.processes import Identity, boot_id, identify
from dynamoctl.monitoring import observe, probes
from dynamoctl.monitoring.observe import Memory, Snapshot
from dynamoctl.operations.status import _answer
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import DeploymentState, UnitState

from tests.unit.hosts import ETCD, plan, uuid
from tests.unit.served import served

# ---- KV transfers ---------------------------------------------------------------------------


def metrics(transfers: int) -> str:
    """What a worker says of its transfers, among other things."""
    return f"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0"}} 9.0
# TYPE vllm:nixl_xfer_time_seconds histogram
vllm:nixl_xfer_time_seconds_bucket{{engine="0",le="+Inf"}} {transfers}.0
vllm:nixl_xfer_time_seconds_count{{engine="0"}} {transfers}.0
vllm:nixl_xfer_time_seconds_sum{{engine="0"}} 0.5
"""


def transfers(made: DeploymentPlan, counts: dict[str, int]) -> tuple[int, set[str]]:
    """The transfers that are seen where units say so many, and who was asked; others are not there."""
    names = {port: unit.name for unit in made.units for port in unit.ports.values()}
    asked = set()

    def answer(url: str, _: object) -> str | None:
        name = names[urlsplit(url).port or 80]
        asked.add(name)
        return metrics(counts[name]) if name in counts else None

    with served(answer):
        return asyncio.run(observe.transfers(made)), asked


def test_transfers_are_counted_on_the_decode_workers_alone() -> None:
    made = plan(3, mode="disagg", decode=2)
    counts = {"decode-0": 3, "decode-1": 4, "prefill-0": 100}
    assert transfers(made, counts) == (7, {"decode-0", "decode-1"})


def test_a_decode_worker_that_does_not_answer_counts_for_nothing() -> None:
    made = plan(3, mode="disagg", decode=2)
    assert transfers(made, {"decode-1": 4}) == (4, {"decode-0", "decode-1"})


@pytest.mark.parametrize("fields", [{}, {"mode": "disagg", "engine": "mocker"}])
def test_where_no_kv_cache_is_moved_nobody_is_asked(fields: dict[str, Any]) -> None:
    made = plan(**fields)
    assert transfers(made, {unit.name: 5 for unit in made.units}) == (0, set())


# ---- load -----------------------------------------------------------------------------------

FRONTEND = """\
# TYPE dynamo_frontend_requests_total counter
dynamo_frontend_requests_total{endpoint="chat_completions",error_type="",model="m",status="success"} 7
dynamo_frontend_requests_total{endpoint="completions",error_type="",model="m",status="success"} 1
dynamo_frontend_requests_total{error_type="not_found",model="unknown_model",status="error"} 2
dynamo_frontend_requests_started_total{model="m"} 99
# TYPE dynamo_frontend_input_sequence_tokens histogram
dynamo_frontend_input_sequence_tokens_sum{model="m"} 101
dynamo_frontend_input_sequence_tokens_count{model="m"} 4
dynamo_frontend_output_tokens_total{model="m"} 64
# TYPE dynamo_frontend_time_to_first_token_seconds histogram
dynamo_frontend_time_to_first_token_seconds_bucket{model="m",le="0.0047"} 3
dynamo_frontend_time_to_first_token_seconds_bucket{model="m",le="+Inf"} 4
dynamo_frontend_time_to_first_token_seconds_bucket{model="adapter",le="0.0047"} 1
dynamo_frontend_time_to_first_token_seconds_bucket{model="adapter",le="+Inf"} 1
"""
WORKER = """\
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_running{engine="1"} 2.0
vllm:num_requests_waiting{engine="0"} NaN
vllm:num_requests_waiting_by_reason{engine="0"} 9.0
vllm:kv_cache_usage_perc{engine="0"} 0.2
vllm:kv_cache_usage_perc{engine="1"} 0.4
vllm:external_prefix_cache_hits_total{engine="0"} 256.0
vllm:external_prefix_cache_queries_total{engine="0"} 1024.0
vllm:nixl_xfer_time_seconds_count{engine="0"} 5.0
vllm:nixl_bytes_transferred_sum{engine="0"} 5e6
vllm:nixl_num_failed_transfers_total{engine="0"} 1.0
vllm:nixl_num_failed_notifications_total{engine="0"} 2.0
"""


def snapshot(made: DeploymentPlan, pages: dict[str, str]) -> Snapshot:
    """What is seen where units have these pages; others do not answer."""
    names = {port: unit.name for unit in made.units for port in unit.ports.values()}

    def answer(url: str, _: object) -> str | None:
        name = names[urlsplit(url).port or 80]
        if not url.endswith("/metrics"):
            return '{"ready": true}' if name in pages else None
        return pages.get(name)

    with served(answer):
        return asyncio.run(observe.snapshot(made))


def test_the_frontend_is_asked_for_requests_tokens_and_latencies() -> None:
    seen = snapshot(plan(), {"frontend": FRONTEND})
    assert seen.counters == {
        "frontend": {"requests": 10, "failed_requests": 2, "prompt_tokens": 101, "generation_tokens": 64}
    }
    assert seen.histograms == {"frontend": {"ttft": {"0.0047": 4, "+Inf": 5}}}
    assert seen.health["frontend"] == "ok"


FAILED = """\
dynamo_frontend_requests_total{error_type="validation",model="m",request_type="unary",status="error"} 3
dynamo_frontend_requests_total{error_type="cancelled",model="m",request_type="unary",status="error"} 50
dynamo_frontend_requests_total{error_type="cancelled",model="m",request_type="stream",status="error"} 50
"""


def test_failed_requests_are_told_apart_by_their_type(capsys: pytest.CaptureFixture[str]) -> None:
    """A client that has gone away counts as an error, too."""
    seen = snapshot(plan(), {"frontend": FRONTEND + FAILED})
    assert seen.failed_by_type == {"cancelled": 100, "validation": 3, "not_found": 2}
    shown = status_of(seen, [])
    assert shown.load is not None
    assert shown.load.failed_requests_by_type == seen.failed_by_type
    assert shown.load.failed_requests_total == 105
    draw_status(shown)
    words = "105 of them failed (100 cancelled, 3 validation, 2 not_found)"
    assert f"requests: 113 finished, {words}" in capsys.readouterr().out.splitlines()


def test_without_a_frontend_nothing_is_said_of_failed_requests() -> None:
    seen = snapshot(plan(), {"worker-0": WORKER})
    load = status_of(seen, []).load
    assert load is not None
    assert (load.failed_requests_total, load.failed_requests_by_type) == (None, None)


def test_lmcaches_hits_are_not_called_those_of_the_whole_cache(capsys: pytest.CaptureFixture[str]) -> None:
    """LMCache is asked for what the engine's own cache did not have."""
    draw_status(status_of(snapshot(plan(), {"worker-0": WORKER}), []))
    shown = "LMCache: 256 of 1,024 tokens that the engine's own cache did not have (25%)"
    assert shown in capsys.readouterr().out.splitlines()


MOVED = """\
dynamo_frontend_model_migration_limit{model="m"} 0
dynamo_frontend_model_migration_total{migration_type="new_request",model="m"} 3
dynamo_frontend_model_migration_total{migration_type="ongoing_request",model="m"} 10
"""


@pytest.mark.parametrize(
    ("fields", "page", "moved"),
    [
        ({"workers": 2}, FRONTEND + MOVED, 13),
        ({"workers": 2}, FRONTEND, 0),  # the counter appears with the first move
        ({"workers": 2, "migration_limit": 0}, FRONTEND + MOVED, None),
        ({}, FRONTEND + MOVED, None),  # Dynamo also counts the moves that no other worker could take
        ({"workers": 2, "env": {"DYN_MIGRATION_LIMIT": "1"}}, FRONTEND + MOVED, 13),
        ({"discovery": "etcd", "etcd_endpoints": ("http://127.0.0.1:2379",)}, FRONTEND + MOVED, 13),
    ],
)
def test_moved_requests_are_counted_if_the_frontend_moves_any(
    fields: dict[str, Any], page: str, moved: int | None
) -> None:
    made = plan(engine="mocker", **fields)
    assert snapshot(made, {"frontend": page}).counters["frontend"].get("migrations") == moved


def test_the_workers_are_asked_for_what_they_do_now() -> None:
    """Of an engine's values that are summed, one that is no number is left out."""
    seen = snapshot(plan(), {"worker-0": WORKER})
    assert seen.gauges == {"worker-0": {"requests_running": 5, "kv_cache_usage": pytest.approx(0.3)}}
    assert seen.cache == {"hit_tokens": 256, "requested_tokens": 1024, "hit_rate": 0.25}
    assert seen.transfers == {"count": 5, "bytes": 5_000_000, "failed": 3}


def test_what_a_decode_worker_gets_from_prefill_is_no_hit_of_lmcache() -> None:
    seen = snapshot(plan(3, mode="disagg", decode=2), {"decode-0": WORKER, "prefill-0": WORKER})
    assert seen.cache is not None
    assert seen.cache["hit_tokens"] == 256
    assert set(seen.counters["decode-0"]) == {"transfers", "transferred_bytes", "failed_transfers"}


def test_without_lmcache_nothing_is_said_of_it() -> None:
    seen = snapshot(plan(lmcache={"enabled": False}), {"worker-0": WORKER})
    assert seen.cache is None
    assert "hit_tokens" not in seen.counters["worker-0"]


# ---- memory ---------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units hold 10 MiB for each process; two GPUs, and pids 1, 2, 3 and a stranger on them."""
    there = tuple(Gpu(i, uuid(i), "NVIDIA H100 80GB HBM3", 81559) for i in range(2))
    monkeypatch.setattr(processes, "resident_mib", lambda pids: 10 * len(pids))
    monkeypatch.setattr(gpus, "list_gpus", lambda: there)
    monkeypatch.setattr(gpus, "memory_used", lambda: {0: 60000, 1: 700})
    monkeypatch.setattr(gpus, "utilization", lambda: {0: 0.87})
    monkeypatch.setattr(
        gpus, "memory_by_process", lambda: {0: {1: 100, 2: 20, 3: 3, 999: 50000}, 1: {2: 400}}
    )


@pytest.mark.usefixtures("two_gpus")
def test_each_unit_is_told_what_its_own_processes_hold() -> None:
    seen = observe.memory({"frontend": ([9], ()), "decode-0": ([1, 2], (0,)), "prefill-0": ([3], (0,))})
    assert seen.units == {"frontend": 10, "decode-0": 20, "prefill-0": 10}
    assert seen.gpu_units == {"decode-0": 120, "prefill-0": 3}
    assert seen.gpus == {"0": (60000, 81559)}


@pytest.mark.usefixtures("two_gpus")
def test_a_unit_on_several_gpus_holds_their_sum_and_each_gpu_is_shown_as_the_plan_names_it() -> None:
    seen = observe.memory({"worker-0": ([1, 2], (0, uuid(1)))})
    assert seen.gpu_units == {"worker-0": 520}
    assert seen.gpus == {"0": (60000, 81559), uuid(1): (700, 81559)}
    assert seen.utilization == {"0": 0.87}  # the other does not say


@pytest.mark.usefixtures("two_gpus")
def test_a_unit_whose_processes_nvml_hides_is_left_out_and_not_said_to_hold_nothing() -> None:
    seen = observe.memory({"worker-0": ([77], (1,))})
    assert seen.gpu_units == {}
    assert seen.gpus == {"1": (700, 81559)}


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_nvml_does_not_list_is_left_out() -> None:
    assert observe.memory({"worker-0": ([1], ("MIG-8f1fbf05",))}) == Memory({"worker-0": 10})


def test_nvml_is_not_asked_about_units_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("list_gpus", "memory_used", "memory_by_process", "utilization"):
        monkeypatch.setattr(gpus, name, lambda: pytest.fail("NVML was asked"))
    assert set(observe.memory({"worker-0": ([os.getpid()], ())}).units) == {"worker-0"}


# ---- status ---------------------------------------------------------------------------------


def status_of(seen: Snapshot | None, gpus: list[int | str]) -> StatusAnswer:
    """The status of a worker that lives and one that is gone, with what the supervisor answered."""
    units = [
        UnitState("worker-0", "agg", "ready", gpus=gpus, identity=identify(os.getpid())),
        UnitState("worker-1", "agg", "backoff", gpus=gpus, identity=Identity(os.getpid(), 0, boot_id())),
    ]
    state = DeploymentState("default", "agg", "qwen", "http://127.0.0.1:8000", "", "ready", units=units)
    # As it comes over the control socket.
    answer = json.loads(json.dumps(dataclasses.asdict(seen))) if seen else None
    return _answer(state, "ready", [], answer)


ON_GPUS = Snapshot(
    memory=Memory(
        {"worker-0": 3072, "worker-1": 5},
        {"worker-0": 36864, "worker-1": 6},
        {"1": (700, 81559), "0": (61440, 81559)},
        {"0": 0.87},
    )
)
ON_CPU = Snapshot(memory=Memory({"worker-0": 3072}))


def test_a_deployment_whose_unit_has_just_died_is_not_ready() -> None:
    """Its supervisor has not yet written that it knows."""
    units = [UnitState("worker-0", "agg", "ready", identity=identify(os.getpid()))]
    state = DeploymentState("default", "agg", "qwen", "http://127.0.0.1:8000", "", "ready", units=units)
    assert _answer(state, "ready", [], None).state == "ready"
    units.append(UnitState("worker-1", "agg", "ready", identity=Identity(os.getpid(), 0, boot_id())))
    shown = _answer(state, "ready", [], None)
    assert [unit.state for unit in shown.units] == ["ready", "failed"]
    assert shown.state == "degraded"


def test_status_says_what_each_unit_and_each_gpu_holds() -> None:
    shown = status_of(ON_GPUS, [0, 1])
    assert (shown.units[0].memory_mib, shown.units[0].gpu_memory_mib) == (3072, 36864)
    assert shown.gpus == (
        GpuStatus(gpu="0", memory_used_mib=61440, memory_total_mib=81559, utilization=0.87),
        GpuStatus(gpu="1", memory_used_mib=700, memory_total_mib=81559, utilization=None),
    )


def test_a_unit_that_does_not_run_holds_nothing() -> None:
    gone = status_of(ON_GPUS, [0, 1]).units[1]
    assert (gone.pid, gone.memory_mib, gone.gpu_memory_mib) == (None, None, None)


def test_without_an_answer_of_the_supervisors_the_keys_are_there_all_the_same() -> None:
    shown = status_of(None, [0, 1])
    assert (shown.units[0].memory_mib, shown.units[0].gpu_memory_mib) == (None, None)
    assert shown.gpus == ()


def test_an_older_supervisor_that_says_nothing_of_memory_is_understood() -> None:
    state = DeploymentState("default", "agg", "qwen", "", "", "ready", units=[UnitState("w", "agg", "ready")])
    shown = _answer(state, "ready", [], {"health": {}})
    assert (shown.gpus, shown.load) == ((), None)


def loaded() -> Snapshot:
    return Snapshot(
        counters={
            "frontend": {
                "requests": 10,
                "failed_requests": 2,
                "prompt_tokens": 10_001,
                "generation_tokens": 64,
            },
            "worker-0": {},
        },
        gauges={"worker-0": {"requests_running": 3.0, "requests_waiting": 1.0, "kv_cache_usage": 0.123456}},
    )


def test_status_says_how_much_there_is_to_do() -> None:
    shown = status_of(loaded(), [])
    assert shown.load == LoadStatus(
        requests_running=3,
        requests_waiting=1,
        requests_total=10,
        failed_requests_total=2,
        prompt_tokens_total=10_001,
        generation_tokens_total=64,
        moved_requests_total=None,
    )
    worker, gone = shown.units
    assert (worker.requests_running, worker.requests_waiting) == (3, 1)
    assert worker.kv_cache_usage == 0.1235
    assert (gone.requests_running, gone.kv_cache_usage) == (None, None)


def test_where_nobody_says_what_there_is_to_do_it_is_not_said_to_be_nothing() -> None:
    assert status_of(Snapshot(), []).load == LoadStatus(*[None] * 7)


def test_requests_and_tokens_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    draw_status(status_of(loaded(), []))
    lines = capsys.readouterr().out.splitlines()
    assert "requests: 3 running, 1 waiting, 10 finished, 2 of them failed" in lines
    assert "tokens: 10,001 in prompts, 64 generated" in lines
    draw_status(status_of(Snapshot(), []))
    assert "requests" not in capsys.readouterr().out


def test_moved_requests_stand_in_the_line_of_requests_once_there_are_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = loaded()
    for moves, words in ((0, ""), (1_234, ", 1,234 moved")):
        seen.counters["frontend"]["migrations"] = moves
        load = status_of(seen, []).load
        assert load is not None
        assert load.moved_requests_total == moves
        draw_status(status_of(seen, []))
        lines = capsys.readouterr().out.splitlines()
        assert f"requests: 3 running, 1 waiting, 10 finished, 2 of them failed{words}" in lines


def table(shown: str) -> dict[str, str]:
    """The first worker's row: column -> what stands there."""
    head, row = (line for line in shown.splitlines() if line.startswith(("UNIT", "worker-0")))
    return dict(zip(re.split(r" {2,}", head.strip()), re.split(r" {2,}", row.strip()), strict=True))


def test_the_table_shows_memory_and_the_gpus_in_gib(capsys: pytest.CaptureFixture[str]) -> None:
    draw_status(status_of(ON_GPUS, [0, 1]))
    shown = capsys.readouterr().out
    row = table(shown)
    assert (row["GPU"], row["GPU MEMORY"], row["MEMORY"]) == ("0,1", "36.0 GiB", "3.0 GiB")
    assert "GPU 0: 60.0 of 79.6 GiB in use, busy 87%" in shown.splitlines()
    assert "GPU 1: 0.7 of 79.6 GiB in use" in shown.splitlines()


def test_without_a_gpu_the_table_has_no_word_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    draw_status(status_of(ON_CPU, []))
    shown = capsys.readouterr().out
    assert table(shown)["MEMORY"] == "3.0 GiB"
    assert "GPU" not in shown


def test_the_table_of_a_healthy_deployment_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    healthy = status_of(ON_GPUS, [0, 1])
    for name, unit in zip(("decode-10", "prefill-10"), healthy.units, strict=True):
        vars(unit).update(name=name, state="ready", pid=4_194_303, health="ok", gpus=[0, 1, 2, 3])
        vars(unit).update(memory_mib=30_000, gpu_memory_mib=300_000, uptime_s=85_000)
    draw_status(healthy)
    rows = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(("UNIT", "decode", "pre"))
    ]
    assert len(rows) == 3
    assert max(map(len, map(str.rstrip, rows))) <= 80
    assert not {"HEALTH", "RESTARTS"} & set(rows[0].split())


def test_what_is_not_as_it_should_be_has_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    ill = status_of(ON_CPU, [])
    vars(ill.units[0]).update(health="HTTP 503", restarts=2)
    draw_status(ill)
    row = table(capsys.readouterr().out)
    assert (row["RESTARTS"], row["HEALTH"]) == ("2", "HTTP 503")


# ---- the size of the KV cache ---------------------------------------------------------------


def test_the_size_of_the_kv_cache_is_asked_where_each_worker_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def get_text(url: str) -> str:
        asked.append(url)
        return 'vllm:cache_config_info{num_gpu_blocks="10",block_size="16"} 1.0\n'

    monkeypatch.setattr(probes, "get_text", get_text)
    etcd: dict[str, Any] = {"discovery": "etcd", "etcd_endpoints": [ETCD]}
    made = plan(mode="disagg", engine="mocker", roles=["prefill"], prefill=2, advertise="10.0.0.1", **etcd)
    assert asyncio.run(observe.kv_cache_tokens(made)) == 2 * 160
    assert asked == [f"http://10.0.0.1:{unit.gate.port}/metrics" for unit in made.workers]
