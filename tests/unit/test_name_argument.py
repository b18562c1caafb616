"""A deployment's name: as an argument, with --name, or both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from dynamoctl.cli import app, run
from dynamoctl.state import DeploymentDir, DeploymentState


def commands(group: Any, *words: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)
        else:
            yield " ".join((*words, name)), command


def has(command: Any, *names: str) -> bool:
    return any(set(names) & {*parameter.opts, parameter.name} for parameter in command.params)


ALL = dict(commands(typer.main.get_command(app())))
# A command with a MODE makes the plan of a deployment; its first argument is the mode.
NAMED = [name for name, command in ALL.items() if has(command, "--name") and not has(command, "mode")]
# Their first argument may be something else.
PLAIN = [name for name in NAMED if name not in ("logs", "chat", "scale", "restart", "drain", "undrain")]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("default", "two", "frontend"):
        logs = tmp_path / "home" / "deployments" / name / "logs"
        logs.mkdir(parents=True)
        DeploymentDir(name).write_state(DeploymentState(name, "agg", "m", "http://127.0.0.1:1", "start"))
        for unit in ("frontend", "supervisor"):
            (logs / f"{unit}.log").write_text(f"{unit} of {name}\n", encoding="utf-8")
    return tmp_path / "home"


def said(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str]:
    code = run(words.split())
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_every_command_that_takes_a_name_takes_it_as_its_first_argument() -> None:
    assert {"status", "down", "logs", "chat", "cache check", "bench reuse", "export prometheus"} <= set(NAMED)
    for name in NAMED:
        first = next(one for one in ALL[name].params if one.param_type_name == "argument")
        assert (first.name, first.required) == ("deployment", False), name


@pytest.mark.parametrize("command", PLAIN)
def test_both_ways_mean_the_same(capsys: pytest.CaptureFixture[str], command: str) -> None:
    (by_option,) = {said(capsys, f"{command} {words}") for words in ("-n none", "none", "none -n none")}
    assert "'none'" in by_option[1]


@pytest.mark.parametrize("command", PLAIN)
def test_two_different_names_are_an_error(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, text = said(capsys, f"{command} one --name two")
    assert (code, "two deployments are named: 'one', and 'two' by --name" in text) == (2, True)


@pytest.mark.parametrize("command", ["status", "down", "export prometheus"])
def test_all_takes_no_name_as_an_argument(
    capsys: pytest.CaptureFixture[str], command: str, home: Path
) -> None:
    code, text = said(capsys, f"{command} two --all")
    assert (code, "--all is every deployment, and 'two' is one" in text) == (2, True)
    assert (home / "deployments" / "two").exists()


@pytest.mark.parametrize("command", PLAIN)
def test_one_name_is_enough(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, text = said(capsys, f"{command} one two")
    assert (code, "unexpected extra argument" in text) == (2, True)


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("", ["frontend of default", "supervisor of default"]),
        ("two", ["frontend of two", "supervisor of two"]),
        ("-n two", ["frontend of two", "supervisor of two"]),
        ("two -n two", ["frontend of two", "supervisor of two"]),
        ("supervisor", ["supervisor of default"]),
        ("supervisor -n two", ["supervisor of two"]),
        ("two supervisor", ["supervisor of two"]),
        ("two supervisor -n two", ["supervisor of two"]),
        # A word that is both is a unit, as it always was.
        ("frontend", ["frontend of default"]),
        ("frontend frontend", ["frontend of frontend"]),
    ],
)
def test_logs_of_a_deployment_or_of_a_unit(
    capsys: pytest.CaptureFixture[str], words: str, lines: list[str]
) -> None:
    code, text = said(capsys, f"logs {words}")
    assert code == 0
    assert sorted(re.findall(r"\w+ of \w+", text)) == lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("two supervisor -n default", "two deployments are named: 'two', and 'default' by --name"),
        ("none", "'default' has no unit 'none'"),
        ("two -n default", "to see the logs of the deployment 'two': dynamoctl logs two"),
        ("none frontend", "'none' has no logs"),
        ("supervisor frontend", "'supervisor' is a unit of 'default'"),
        ("two none", "'two' has no unit 'none'"),
    ],
)
def test_logs_of_what_there_is_not(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    code, text = said(capsys, f"logs {words}")
    assert (code, message in text) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("two", "'default' is not running"),  # a question, whatever deployments there are
        ("two why", "'two' is not running"),
        ("two why -n two", "'two' is not running"),
        ("why -n two", "'two' is not running"),
        ("two why -n default", "two deployments are named: 'two', and 'default' by --name"),
        ("what now", "there is no deployment 'what'"),
    ],
)
def test_chat_takes_a_name_before_a_question(
    capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    code, text = said(capsys, f"chat {words}")
    assert (code, message in text) == (2, True)


def test_a_command_that_plans_says_where_a_name_goes(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "up agg two")
    assert (code, "a deployment's name goes after -n" in text) == (2, True)
