"""The surface: exit codes, one clear message each, the JSON envelope, no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from dynamoctl.cli import COMMANDS, app, plan_flags, run
from dynamoctl.config.choices import ROUTER_MODES
from dynamoctl.config.load import flag_of
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.host import facts
from dynamoctl.tested_versions import SETS

from tests.unit.fresh import last_line


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("ENABLE_LMCACHE", "LMCACHE_CHUNK_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def plan_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["up", *words, "--dry-run", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    # What differs from one look at the host to the next: the free ports.
    text = json.dumps(body["units"])
    for unit in body["units"]:
        for name, number in unit["ports"].items():
            text = text.replace(str(number), f"<{unit['name']}.{name}>")
    return {**body, "text": text}


def test_the_plan_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    body = plan_of(capsys, "agg", "--gpus", "0")
    assert body["schema"] == "dynamoctl/plan/v1"
    assert body["ok"] is True
    assert {"name", "mode", "device", "model", "units"} <= body.keys()
    promised = {"name", "role", "gpus", "argv", "env", "ports", "kv_transfer_config", "after", "gate"}
    for unit in body["units"]:
        assert promised <= unit.keys()


@pytest.mark.parametrize(
    ("words", "connector"),
    [
        (
            ["--gpus", "0", "--lmcache-mode", "inproc"],
            {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"},
        ),
        (["--gpus", "0", "--no-lmcache"], {"kv_connector": "NixlConnector", "kv_role": "kv_both"}),
    ],
)
def test_agg_has_exactly_the_connector_of_the_table(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    connector: dict[str, str],
) -> None:
    monkeypatch.setattr(facts, "versions", lambda: dict(SETS[1].versions))  # with which in process is right
    assert plan_of(capsys, "agg", *words)["units"][-1]["kv_transfer_config"] == connector


@pytest.mark.parametrize("device", [["--gpus", "0"], ["--device", "cpu"]])
def test_enable_lmcache_0_equals_no_lmcache(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: list[str]
) -> None:
    by_flag = plan_of(capsys, "agg", *device, "--no-lmcache")
    monkeypatch.setenv("ENABLE_LMCACHE", "0")
    assert plan_of(capsys, "agg", *device)["text"] == by_flag["text"]


def test_each_role_may_have_arguments_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--gpus", "0,1", "--decode-args", "--max-num-seqs 64", "--prefill-args=--max-num-seqs '8'")
    units = {unit["name"]: unit for unit in plan_of(capsys, "disagg", *words)["units"]}
    assert units["decode-0"]["argv"][-2:] == ["--max-num-seqs", "64"]
    assert units["prefill-0"]["argv"][-2:] == ["--max-num-seqs", "8"]
    assert run(["up", "agg", "--dry-run", "--decode-args", "--seed 2"]) == 2
    assert run(["up", "disagg", "--dry-run", "--decode-args", "--seed '2"]) == 2
    assert "--decode-args: no closing quotation" in capsys.readouterr().err


def test_a_plan_for_named_gpus_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    body = plan_of(capsys, "disagg", "--gpus", "6,7")
    gpus = {unit["name"]: unit["gpus"] for unit in body["units"] if unit["gpus"]}
    assert gpus == {"decode-0": [6], "prefill-0": [7]}


BAD = [
    (["agg", "--gpus", "zero"], {}, 2, "--gpus: 'zero' is not a GPU"),
    (["agg", "--gpus", "0,,1"], {}, 2, "is not a GPU"),
    (["agg", "--gpus", "0,1"], {}, 2, "add --workers 2 or --tp 2"),
    (["agg", "--model", "/no/such/folder", "--device", "cpu"], {}, 3, "no model folder /no/such/folder"),
    (["agg", "--config", "missing.toml"], {}, 2, "no config file missing.toml"),
    (["agg", "stray"], {}, 2, "unexpected argument 'stray'"),
    (["agg", "--no-such-flag"], {}, 2, "--no-such-flag"),
    (["sideways"], {}, 2, "sideways"),
    (["agg", "--router-mode", "magic"], {}, 2, "magic"),
    (["agg", "--device", "cpu"], {"LMCACHE_CHUNK_SIZE": "20GB"}, 2, "LMCACHE_CHUNK_SIZE=20GB"),
    (["agg", "--device", "cpu"], {"LMCACHE_CHUNKSIZE": "256"}, 2, "did you mean 'LMCACHE_CHUNK_SIZE'?"),
    (["agg", "--device", "cpu"], {"ENABLE_LMCACHE": "perhaps"}, 2, "neither on nor off"),
    (["disagg", "--gpus", "0,1", "--workers", "2"], {}, 2, "decode and prefill"),
    (["agg", "-n", "Bad Name"], {}, 2, "lower-case"),
    (["agg", "--device", "cpu", "--lmcache-cpu-gb", "60000"], {}, 3, "60000 GiB"),
]


@pytest.mark.parametrize(("words", "environ", "code", "message"), BAD)
def test_bad_input_gets_one_clear_message_and_its_exit_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    environ: dict[str, str],
    code: int,
    message: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run(["up", *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err.replace("\n", " ")
    assert "Traceback" not in shown.err
    assert not (tmp_path / "home" / "deployments" / "default" / "state.json").exists()
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["up", *words, "--json"]) == code
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["ok"], body["error"]["code"]) == ("dynamoctl/up/v1", False, code)
    assert message in body["error"]["message"] + " " + body["error"]["hint"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moddel = 'x'", "did you mean 'model'?"),
        ("model = ", "not valid TOML"),
        ("[lmcache]\nchunk_sise = 1", "did you mean 'chunk_size'?"),
        ("workers = 'many'", "workers"),
    ],
)
def test_a_bad_config_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "dynamoctl.toml").write_text(text, encoding="utf-8")
    assert run(["up", "agg"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "dynamoctl.toml" in shown


def test_nothing_running_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"]) == 0
    assert "is not running" in capsys.readouterr().out
    assert run(["down"]) == 0
    assert run(["status", "--all"]) == 0
    assert run(["down", "--all"]) == 0
    capsys.readouterr()
    assert run(["status", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["state"] == "stopped"
    promised = {"name", "mode", "state", "model", "endpoint", "units", "cache", "transfers"}
    assert promised <= body.keys()


def test_logs_of_what_never_ran_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs"]) == 2
    assert "never started" in capsys.readouterr().err


def test_help_shows_defaults_and_choices_as_they_are_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)  # from the environment of its first import
    for command in ("up", "doctor", "init"):
        assert run([command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "HTTP port of the frontend. [default: 8000]" in shown
        assert "[default: (" not in shown
        assert all(mode in shown for mode in ROUTER_MODES)


def test_the_defaults_that_flags_show_are_those_of_the_spec() -> None:
    """Where a default is one number or word; `config` applies it."""
    command: Any = typer.main.get_command(app())
    shown = {
        flag: re.sub(r".*\[dim\]\\\[default: (.*)\]\[/dim\]$", r"\1", parameter.help or "")
        for parameter in command.commands["up"].params
        for flag in parameter.opts
    }
    defaults = DeploymentSpec().model_dump()
    defaults |= {f"lmcache.{key}": value for key, value in defaults.pop("lmcache").items()}
    for field in (
        "name", "workers", "decode", "prefill", "tp", "start", "engine", "router_mode", "host", "port",
        "discovery", "timeout_s", "hang_timeout_s", "drain_s", "lmcache.chunk_size",
    ):  # fmt: skip
        value = defaults[field]
        assert shown[flag_of(field)] == (f"{value:g}" if isinstance(value, float) else str(value)), field


def test_errors_name_flags_that_there_are() -> None:
    command: Any = typer.main.get_command(app())
    flags = {flag for parameter in command.commands["up"].params for flag in parameter.opts}
    fields = set(plan_flags.plan_flags()) - {"config", "mode", "engine_args"}
    assert {flag_of(field) for field in fields} <= flags


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_the_list_of_commands_is_the_one_that_typer_makes_of_all(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 0
    shown = capsys.readouterr().out
    app()(args=["--help"], prog_name="dynamoctl", standalone_mode=False)
    assert shown == capsys.readouterr().out
    assert all(f" {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "others"),
    [(["status"], False), (["down", "-n", "none"], False), (["--help"], True), (["nonsense"], True)],
)
def test_a_command_waits_for_no_other(words: list[str], others: bool) -> None:
    script = f"""
import sys
from dynamoctl.cli import run
run({words})
there = {{"status", "down", "up", "bench", "export"}} - set({words})
print(sorted(name for name in there if f"dynamoctl.cli.{{name}}" in sys.modules))
"""
    there = {"status", "down", "up", "bench", "export"} - set(words)
    assert last_line(script) == str(sorted(there) if others else [])
