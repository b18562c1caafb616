"""Completion, asked for as bash asks: with variables, and nothing but words on stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dynamoctl import policies
from dynamoctl.cli import run
from dynamoctl.errors import DynamoctlError
from dynamoctl.host import gpus, models

from tests.unit.hosts import host

Ask = Callable[[str], list[str]]

GPUS = host(3).gpus


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The words for the end of a line."""
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("_DYNAMOCTL_COMPLETE", "complete_bash")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)

    def words(line: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        with pytest.raises(SystemExit) as ended:
            run([])
        shown = capsys.readouterr()
        assert (ended.value.code, shown.err) == (0, "")
        return [word for word in shown.out.splitlines() if word]

    return words


@pytest.fixture
def _three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "list_gpus", lambda: GPUS)


def test_commands(ask: Ask) -> None:
    assert {"up", "init", "doctor", "status", "logs", "down"} <= set(ask("dynamoctl "))
    assert ask("dynamoctl sta") == ["status"]


@pytest.mark.parametrize("command", ["up", "init", "doctor"])
def test_modes_and_choices(ask: Ask, command: str) -> None:
    assert ask(f"dynamoctl {command} ") == ["agg", "disagg"]
    assert ask(f"dynamoctl {command} agg --device c") == ["cuda", "cpu"]
    assert "least-loaded" in ask(f"dynamoctl {command} agg --router-mode ")
    assert ask(f"dynamoctl {command} --lmcache-dis") == ["--lmcache-disk", "--lmcache-disk-gb"]


@pytest.mark.parametrize("command", ["up", "doctor", "status", "logs", "down", "chat", "cache check"])
def test_names_of_deployments(ask: Ask, tmp_path: Path, command: str) -> None:
    for name in ("prod", "proto"):
        folder = tmp_path / "home" / "deployments" / name
        folder.mkdir(parents=True)
        (folder / "state.json").touch()
    assert ask(f"dynamoctl {command} -n pro") == ["prod", "proto"]
    assert ask(f"dynamoctl {command} --name prot") == ["proto"]
    if command not in ("up", "doctor"):
        assert ask(f"dynamoctl {command} prot") == ["proto"]


def test_units_of_the_deployment_that_is_named(ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "deployments" / "prod"
    (folder / "logs").mkdir(parents=True)
    (folder / "state.json").touch()
    for unit in ("frontend", "worker-0"):
        (folder / "logs" / f"{unit}.log").touch()
    assert ask("dynamoctl logs -n prod ") == ["frontend", "worker-0"]
    assert ask("dynamoctl logs -n prod w") == ["worker-0"]
    assert ask("dynamoctl logs prod w") == ["worker-0"]
    assert ask("dynamoctl logs ") == ["prod"]


@pytest.mark.usefixtures("_three_gpus")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", ["0", "1", "2"]),
        ("1", ["1"]),
        ("0,", ["0,1", "0,2"]),
        ("2,0,", ["2,0,1"]),
        ("0-1,", ["0-1,2"]),
        ("0,1,2,", ["0,1,2,0", "0,1,2,1", "0,1,2,2"]),  # shared
        ("7", []),
    ],
)
def test_gpus(ask: Ask, typed: str, words: list[str]) -> None:
    assert ask(f"dynamoctl up agg --gpus {typed}") == words


@pytest.mark.usefixtures("_three_gpus")
def test_gpus_have_their_names_where_the_shell_shows_them(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_DYNAMOCTL_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "dynamoctl up agg -g 0,")
    with pytest.raises(SystemExit):
        run([])
    assert '"0,1":"NVIDIA H100 80GB HBM3"' in capsys.readouterr().out


@pytest.mark.usefixtures("_three_gpus")
def test_gpus_that_are_hidden_are_not_offered(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert ask("dynamoctl up agg --gpus ") == ["0", "1"]


def test_models_that_are_here(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("DYNAMOCTL_CACHE", str(tmp_path / "cache"))
    for name, file in (("Qwen--Qwen3-0.6B", "model.safetensors"), ("Qwen--half", "tokenizer.json")):
        snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / "1"
        snapshot.mkdir(parents=True)
        for one in ("config.json", file):
            (snapshot / one).write_text("{}", encoding="utf-8")
    converted = tmp_path / "cache" / "models" / policies.BUILTIN_MODEL
    converted.mkdir(parents=True)
    for one in ("config.json", "model.safetensors"):
        (converted / one).touch()
    assert ask("dynamoctl up -m ") == [policies.BUILTIN_MODEL, "Qwen/Qwen3-0.6B"]
    assert ask("dynamoctl up -m Q") == ["Qwen/Qwen3-0.6B"]
    assert ask("dynamoctl up -m ./") == []  # folders are for the shell


def test_config_files(ask: Ask, tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml", "b.txt", ".hidden.toml", "bin/c.toml", "bin/d.toml", "empty/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "home").mkdir()
    assert ask("dynamoctl up --config ") == ["a.toml", "b.toml", "bin/", "empty/", "home/"]
    assert ask("dynamoctl up --config b") == ["b.toml", "bin/"]
    assert ask("dynamoctl up --config bin/") == ["bin/c.toml", "bin/d.toml"]
    assert ask(f"dynamoctl up -c {tmp_path}/a") == [f"{tmp_path}/a.toml"]
    assert ask("dynamoctl up --config .") == [".hidden.toml"]
    # No file: the shell itself goes on into the folder.
    assert ask("dynamoctl up --config e") == []
    assert ask("dynamoctl up --config no/such/") == []


def test_nothing_is_said_where_a_look_fails(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise DynamoctlError("no")

    monkeypatch.setattr(gpus, "list_gpus", fails)
    monkeypatch.setattr(models, "here", fails)
    assert ask("dynamoctl up --gpus ") == []
    assert ask("dynamoctl up --model ") == []


def test_bash_itself_completes(tmp_path: Path) -> None:
    """What --show-completion prints, sourced, with the variables that readline sets."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    program = bin_ / "dynamoctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dynamoctl "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    script = """
source <(_DYNAMOCTL_COMPLETE=source_bash dynamoctl)
complete -p dynamoctl
COMP_WORDS=(dynamoctl up dis) COMP_CWORD=2
_dynamoctl_completion dynamoctl
echo "<${COMPREPLY[*]}>"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "complete -o default -F _dynamoctl_completion dynamoctl\n<disagg>\n", done.stderr
