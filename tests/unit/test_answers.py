"""What `--json` promises: one envelope, a schema name and a JSON Schema for each command, keys that stay."""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jsonschema
import pytest
from dynamoctl import answers
from dynamoctl.answers import bench, chat, doctor, down, export, init, logs, status, up, watch
from dynamoctl.answers import cache as cache_answers
from dynamoctl.answers.envelope import Answer, Error, as_json, envelope, schema_name
from dynamoctl.checks.base import Finding, Level
from dynamoctl.cli import run
from dynamoctl.errors import LeftoverError, NotReadyError, PreflightError
from dynamoctl.operations import cache, planning
from dynamoctl.operations import chat as chat_operation
from dynamoctl.operations import doctor as doctor_operation
from dynamoctl.operations import down as down_operation
from dynamoctl.operations import up as up_operation
from dynamoctl.planner import plan as plans
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState

from tests.unit.answer_schemas import SCHEMAS, validate
from tests.unit.fresh import last_line
from tests.unit.hosts import plan

ROOT = Path(__file__).parents[2]
# Beside them stand the figures of the programs in benchmarks/, which are no answers.
RECORDED = [
    file
    for file in sorted((ROOT / "docs" / "bench").glob("*.json"))
    if file.read_text(encoding="utf-8").startswith('{\n  "schema": "dynamoctl/bench')
]


@dataclass(frozen=True)
class Small(Answer):
    schema: ClassVar[str] = "dynamoctl/small/v1"

    name: str
    numbers: tuple[int, ...]


def every_answer() -> Iterator[type[Answer]]:
    for module in pkgutil.iter_modules(answers.__path__):
        for kind in vars(importlib.import_module(f"dynamoctl.answers.{module.name}")).values():
            if isinstance(kind, type) and issubclass(kind, Answer) and kind is not Answer:
                yield kind


# ---- the envelope -------------------------------------------------------------------------------


def test_an_answer_is_its_fields_behind_the_schema_name_and_ok() -> None:
    body = as_json(Small("a", (1, 2)))
    assert list(body) == ["schema", "ok", "name", "numbers"]
    assert json.loads(json.dumps(body)) == {
        "schema": "dynamoctl/small/v1",
        "ok": True,
        "name": "a",
        "numbers": [1, 2],
    }


def test_a_failure_is_its_exit_code_its_message_and_its_hint() -> None:
    error = Error.of(PreflightError("no port", "choose another"))
    assert envelope(schema_name("up"), {}, error) == {
        "schema": "dynamoctl/up/v1",
        "ok": False,
        "error": {"code": 3, "message": "no port", "hint": "choose another"},
    }


def test_an_answer_may_say_an_error_behind_its_figures() -> None:
    body = as_json(Small("a", ()), Error.of(NotReadyError("it died")))
    assert list(body) == ["schema", "ok", "name", "numbers", "error"]
    assert (body["ok"], body["error"]) == (False, {"code": 4, "message": "it died", "hint": ""})


def test_the_error_of_an_answer_is_the_one_that_the_supervisor_writes() -> None:
    failure = LeftoverError("left", "end it")
    assert Error(**failure.as_json()) == Error.of(failure)  # type: ignore[arg-type]


# ---- schema names -------------------------------------------------------------------------------


def test_each_command_has_a_schema_name_of_its_own() -> None:
    kinds = defaultdict(set)
    for kind in every_answer():
        kinds[kind.schema].add(kind.__name__)
    assert dict(kinds) == {
        "dynamoctl/up/v1": {"UpAnswer"},
        "dynamoctl/init/v1": {"InitAnswer"},
        "dynamoctl/doctor/v1": {"DoctorAnswer"},
        "dynamoctl/status/v1": {"StatusAnswer", "StatusAllAnswer", "WatchAnswer", "WatchAllAnswer"},
        "dynamoctl/chat/v1": {"ChatAnswer"},
        "dynamoctl/logs/v1": {"LogsAnswer"},
        "dynamoctl/scale/v1": {"ScaleAnswer"},
        "dynamoctl/restart/v1": {"RestartAnswer"},
        "dynamoctl/apply/v1": {"ApplyAnswer"},
        "dynamoctl/drain/v1": {"DrainAnswer"},
        "dynamoctl/undrain/v1": {"UndrainAnswer"},
        "dynamoctl/history/v1": {"HistoryAnswer"},
        "dynamoctl/down/v1": {"DownAnswer", "DownAllAnswer"},
        "dynamoctl/cache-check/v1": {"CacheCheckAnswer"},
        "dynamoctl/cache-clear/v1": {"CacheClearAnswer"},
        "dynamoctl/bench/v1": {"BenchAnswer"},
        "dynamoctl/bench-compare/v1": {"CompareAnswer"},
        "dynamoctl/bench-tune/v1": {"TuneAnswer"},
        "dynamoctl/export/v1": {"ExportAnswer"},
    }


def test_each_schema_name_has_a_json_schema_and_there_is_no_other() -> None:
    titles = {json.loads(file.read_text())["title"]: file.name for file in SCHEMAS.glob("*.json")}
    assert titles.keys() == {*(kind.schema for kind in every_answer()), plans.SCHEMA, "error"}
    assert all(name == f"{title.split('/')[-2]}.json" for title, name in titles.items() if "/" in title)


# ---- keys that stay -----------------------------------------------------------------------------

PROMISED: dict[type, str] = {
    up.UpAnswer: "name mode state model endpoint already_up seconds warnings",
    init.InitAnswer: "path mode device model next notes cores memory_total_gib memory_available_gib"
    " gpus models",
    init.InitGpu: "gpu name memory_total_mib",
    status.StatusAnswer: "name mode state model endpoint units cache transfers load gpus remote error"
    " warnings",
    status.UnitStatus: "name role state phase pid gpus memory_mib gpu_memory_mib health restarts uptime_s"
    " requests_running requests_waiting kv_cache_usage",
    status.CacheStatus: "hit_tokens requested_tokens hit_rate",
    status.TransferStatus: "count bytes failed",
    status.LoadStatus: "requests_running requests_waiting requests_total failed_requests_total"
    " prompt_tokens_total generation_tokens_total moved_requests_total",
    status.GpuStatus: "gpu memory_used_mib memory_total_mib utilization",
    watch.Rates: "interval_s requests_per_s failed_requests_per_s prompt_tokens_per_s generation_tokens_per_s"
    " cache_hit_rate transfers_per_s transferred_bytes_per_s latency_interval_s ttft_p50_s ttft_p95_s"
    " inter_token_latency_p50_s inter_token_latency_p95_s",
    doctor.DoctorAnswer: "name mode device model findings",
    doctor.DoctorFinding: "check level what why",
    chat.ChatAnswer: "name model text prompt_tokens completion_tokens ttft_s seconds finish_reason",
    logs.LogsAnswer: "name lines",
    logs.LogEntry: "unit line time level",
    down.DownAnswer: "name was_running stopped seconds",
    cache_answers.CacheCheckAnswer: "name check",
    cache_answers.CacheProbe: "prompt_tokens hit_tokens ttft_first_s ttft_last_s prefix_cache_cleared"
    " same_answer",
    cache_answers.CacheClearAnswer: "name cleared kept",
    bench.BenchAnswer: "name mode model device engine workers lmcache tool versions began workload"
    " concurrency request_rate forgotten_by passes ttft_times_faster",
    bench.CompareAnswer: "began workload concurrency request_rate repeat against variants",
    bench.VariantResult: "name ok ready_s figures ratios bench error",
    bench.TuneVariantResult: "name ok ready_s figures ratios bench error chunk_size cpu_gib",
    bench.TuneAnswer: "began workload concurrency request_rate repeat against variants best values config"
    " written",
    export.ExportAnswer: "program format content path notes",
}


@pytest.mark.parametrize("kind", PROMISED, ids=lambda kind: kind.__name__)
def test_no_key_is_taken_away_and_none_comes_before_the_old_ones(kind: type[Any]) -> None:
    promised = PROMISED[kind].split()
    assert [one.name for one in fields(kind)][: len(promised)] == promised


# ---- what commands print ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has failed."""
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = DeploymentDir("old")
    unit = UnitState("frontend", "frontend", "failed", gpus=[0, "GPU-1"], error="it died")
    error: dict[str, Any] = {"code": 4, "message": "it died", "hint": "its log"}
    folder.write_state(DeploymentState("old", "agg", "m", "", "1", "failed", units=[unit], error=error))
    folder.log("frontend").parent.mkdir()
    folder.log("frontend").write_text("2026-11-25T12:34:56.5Z INFO ready\nno time here\n")


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    """The answer of a command, which fits its schema."""
    assert run([*words, "--json"]) == code
    body = json.loads(capsys.readouterr().out)
    assert isinstance(body, dict)
    validate(body)
    return body


@pytest.mark.parametrize(
    "words",
    [
        "status", "status -n old", "status --all", "down", "down -n old", "down --all", "logs -n old",
        "up disagg --gpus 0,1 --dry-run", "up agg --device cpu --no-lmcache --dry-run",
        "init --device cpu", "export grafana", "export prometheus --all", "export prometheus --format config",
        "export shell agg --device cpu", "export systemd agg --device cpu",
    ],
)  # fmt: skip
def test_an_answer_fits_its_schema(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert printed(capsys, *words.split())["ok"] is True


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        ("up sideways", "up"),
        ("up agg --gpus zero --dry-run", "up"),
        ("logs -n none", "logs"),
        ("chat hello", "chat"),
        ("cache check", "cache-check"),
        ("cache clear -n none", "cache-clear"),
        ("cache nonsense", "cache"),
        ("bench random", "bench"),
        ("bench compare nonsense", "bench"),
        ("export prometheus -n none", "export"),
        ("doctor agg --gpus zero", "doctor"),
        ("nonsense", "nonsense"),
        ("", "dynamoctl"),
    ],
)
def test_an_error_fits_the_schema_of_its_command(
    capsys: pytest.CaptureFixture[str], words: str, schema: str
) -> None:
    body = printed(capsys, *words.split(), code=2)
    assert (body["schema"], body["ok"], body["error"]["code"]) == (f"dynamoctl/{schema}/v1", False, 2)
    assert body.keys() == {"schema", "ok", "error"}


def test_status_says_of_a_failed_deployment_why(capsys: pytest.CaptureFixture[str]) -> None:
    body = printed(capsys, "status", "-n", "old")
    assert body["error"] == {"code": 4, "message": "it died", "hint": "its log"}
    assert (body["ok"], body["units"][0]["gpus"]) == (True, [0, "GPU-1"])


def test_logs_carry_the_time_and_the_level_of_the_line_before(capsys: pytest.CaptureFixture[str]) -> None:
    when = {"time": "2026-11-25T12:34:56.500000Z", "level": "info"}
    assert printed(capsys, "logs", "-n", "old")["lines"] == [
        {"unit": "frontend", "line": "2026-11-25T12:34:56.5Z INFO ready", **when},
        {"unit": "frontend", "line": "no time here", **when},
    ]


def test_up_says_where_the_deployment_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = DeploymentState("web", "agg", "m", "http://127.0.0.1:8000", "1", "ready", warnings=["slow"])
    planned = SimpleNamespace(plan=plan(), spec=None)
    monkeypatch.setattr(planning, "plan_for_here", lambda *_: planned)
    monkeypatch.setattr(up_operation, "up", lambda *_: up_operation.Up(state, already=False, seconds=12.345))
    assert printed(capsys, "up", "agg") == {
        "schema": "dynamoctl/up/v1",
        "ok": True,
        "name": "web",
        "mode": "agg",
        "state": "ready",
        "model": "m",
        "endpoint": "http://127.0.0.1:8000",
        "already_up": False,
        "seconds": 12.3,
        "warnings": ["slow"],
    }


def test_down_names_the_units_that_ran(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = down_operation.Down("old", was_running=True, removed=["frontend"], seconds=1.26)
    monkeypatch.setattr(down_operation, "down", lambda *_: done)
    one = {"name": "old", "was_running": True, "stopped": ["frontend"], "seconds": 1.3}
    assert printed(capsys, "down", "-n", "old") == {"schema": "dynamoctl/down/v1", "ok": True, **one}
    assert printed(capsys, "down", "--all")["deployments"] == [one]


def test_doctor_says_the_first_error_beside_all_findings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        doctor_operation.CheckResult("etcd", Finding(Level.OK, "it answers")),
        doctor_operation.CheckResult("port", Finding(Level.ERROR, "taken", "take another", "no requests")),
    ]
    monkeypatch.setattr(planning, "plan_for_here", lambda *_: SimpleNamespace(plan=plan()))
    monkeypatch.setattr(doctor_operation, "diagnose", lambda *_: found)
    body = printed(capsys, "doctor", "agg", code=3)
    assert body["error"] == {"code": 3, "message": "taken", "hint": "take another"}
    assert [(one["check"], one["level"]) for one in body["findings"]] == [("etcd", "ok"), ("port", "error")]


def test_chat_answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reply = chat_operation.Reply("Yes.", 7, 2, 0.1, 0.2, "stop")
    talk = SimpleNamespace(model="m", ask=lambda *_: reply)
    monkeypatch.setattr(chat_operation, "begin", lambda *_: talk)
    assert printed(capsys, "chat", "Say yes.") == {
        "schema": "dynamoctl/chat/v1",
        "ok": True,
        "name": "default",
        "model": "m",
        "text": "Yes.",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "ttft_s": 0.1,
        "seconds": 0.2,
        "finish_reason": "stop",
    }


def test_cache_check_and_cache_clear_have_a_shape_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = cache_answers.CacheProbe(900, 768, 0.5, 0.1, prefix_cache_cleared=True, same_answer=None)
    monkeypatch.setattr(cache, "check", lambda _: probe)
    monkeypatch.setattr(cache, "clear", lambda _: ["disk /data"])
    checked = printed(capsys, "cache", "check")
    assert (checked["schema"], checked["check"]["hit_tokens"]) == ("dynamoctl/cache-check/v1", 768)
    assert printed(capsys, "cache", "clear") == {
        "schema": "dynamoctl/cache-clear/v1",
        "ok": True,
        "name": "default",
        "cleared": "cpu memory",
        "kept": ["disk /data"],
    }


def test_there_are_results_that_were_recorded() -> None:
    assert len(RECORDED) > 5


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_a_result_that_was_recorded_earlier_fits_the_schema_of_today(file: Path) -> None:
    validate(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "change",
    [
        {"ok": False},
        {"schema": "dynamoctl/down/v2"},
        {"seconds": "3"},
        {"stopped": [1]},
        {"name": None},
    ],
)
def test_a_schema_refuses_what_no_command_prints(change: dict[str, Any]) -> None:
    schema = json.loads((SCHEMAS / "down.json").read_text())
    good = as_json(down.DownAnswer("web", was_running=True, stopped=("frontend",), seconds=3.0))
    jsonschema.validate(json.loads(json.dumps(good)), schema)
    jsonschema.validate({**json.loads(json.dumps(good)), "new": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(json.dumps(good)), **change}, schema)
    for key in good:
        with contextlib.suppress(KeyError), pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({name: value for name, value in good.items() if name != key}, schema)


# ---- speed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["status"], ["--help"]])
def test_the_answers_bring_no_pydantic_and_none_of_other_commands(words: list[str]) -> None:
    script = f"""
import sys
from dynamoctl.cli import run
run({words})
there = [name for name in sys.modules if name.startswith("dynamoctl.answers.")]
print("pydantic" in sys.modules, sorted(name.rpartition(".")[2] for name in there))
"""
    expected = ["envelope", "status"] if words == ["status"] else []
    assert last_line(script) == f"False {expected}"
