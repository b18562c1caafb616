"""What a new user tries: each gets what to do, its exit code, no traceback, and nothing is left behind."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer.main
from dynamoctl import cli

from .first_tries import TRIES, Try

_ESCAPE = re.compile("\x1b")


def environment(folder: Path, **environ: str) -> dict[str, str]:
    """Of a user who has never started anything."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
    return {**kept, "HOME": str(folder), "DYNAMOCTL_HOME": str(folder / ".home"), **environ}


def dynamoctl(
    folder: Path, *words: str, prefix: tuple[str, ...] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "dynamoctl", *words],
        cwd=folder,
        env=environment(folder, **environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("one", TRIES, ids=lambda one: one.what)
def test_it_is_told_what_to_do(
    one: Try, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in one.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ, environment(tmp_path, **one.env), clear=True):
        code = cli.run(shlex.split(one.words))
    printed = "".join(capsys.readouterr())
    shown = " ".join(printed.split())
    assert code == one.code, shown
    at = 0
    for words in one.says:
        found = shown.find(words, at)
        assert found >= 0, f"no {words!r} in {shown!r}"
        at = found + len(words)
    assert "Traceback" not in shown
    assert not _ESCAPE.search(printed)
    assert not list((tmp_path / ".home").glob("deployments/*/state.json"))
    for name, text in one.files.items():
        assert (tmp_path / name).read_text(encoding="utf-8") == text


def commands() -> list[tuple[str, ...]]:
    """Every command and every command of a group."""
    found: list[tuple[str, ...]] = []
    top: Any = typer.main.get_command(cli.app())
    for name, command in top.commands.items():
        found.append((name,))
        found += [(name, inner) for inner in getattr(command, "commands", ())]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_each_command_says_what_it_is(
    words: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*words, flag]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: dynamoctl {' '.join(words)}" in " ".join(shown.split())


def test_a_typo_in_each_flag_of_up_gets_the_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last letter is missing, as when one's finger slips."""
    up: Any = typer.main.get_command(cli.app())
    flags = [name for one in up.commands["up"].params for name in one.opts if name[:2] == "--"]
    flags = [name for name in flags if len(name) > len("--tp") and name[:-1] not in flags]
    assert len(flags) > 20
    for flag in flags:
        assert cli.run(["up", "agg", flag[:-1], "1"]) == 2
        assert flag in capsys.readouterr().err


def test_a_narrow_terminal_loses_no_word(tmp_path: Path) -> None:
    done = dynamoctl(tmp_path, "up", "agg", "--port", "99999", COLUMNS="30")
    assert "port: input should be less than or equal to 65535, not 99999" in done.stderr
    done = dynamoctl(tmp_path, "status", "--help", COLUMNS="40", TERMINAL_WIDTH="40")
    assert max(map(len, done.stdout.splitlines())) <= 40
    assert "--watch" in done.stdout


def test_a_reader_that_has_gone_is_no_failure(tmp_path: Path) -> None:
    """As in `dynamoctl up agg --dry-run --json | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dynamoctl", "up", "agg", "--device", "cpu", "--dry-run", "--json"],
            cwd=tmp_path,
            env={**os.environ, "DYNAMOCTL_HOME": str(tmp_path / ".home")},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 0
    assert done.stderr == ""
