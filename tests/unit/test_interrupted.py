"""Ctrl-C, SIGTERM and SIGHUP to each command: the exit code, and who is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.cli import COMMANDS as KNOWN
from dynamoctl.cli import run

# A command, and what it does when the signal comes.
COMMANDS = {
    "up": (("up", "agg"), "planning.plan_for_here"),
    "init": (("init", "agg"), "init.draft"),
    "doctor": (("doctor", "agg"), "planning.plan_for_here"),
    "status": (("status",), "status.status"),
    "chat": (("chat", "Hello"), "chat.begin"),
    "logs": (("logs",), "logs.read"),
    "scale": (("scale", "worker", "2"), "changes.scale"),
    "restart": (("restart", "--all"), "restart.chosen"),
    "apply": (("apply", "agg"), "apply.to_flags"),
    "drain": (("drain", "worker-0"), "drain.drain"),
    "undrain": (("undrain", "worker-0"), "drain.undrain"),
    "history": (("history",), "history.history"),
    "down": (("down",), "down.down"),
    "cache": (("cache", "check"), "cache.check"),
    "bench": (("bench", "random"), "bench.run"),
    "export": (("export", "shell", "agg"), "export.shell"),
}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # Below nohup, SIGHUP would be ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def interrupt_in(monkeypatch: pytest.MonkeyPatch, what: str, number: signal.Signals = signal.SIGINT) -> None:
    def now(*_: Any, **__: Any) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(f"dynamoctl.operations.{what}", now)


def test_each_command_is_here() -> None:
    assert set(KNOWN) == set(COMMANDS)


@pytest.mark.parametrize(("words", "what"), COMMANDS.values(), ids=COMMANDS)
def test_ctrl_c_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], what: str
) -> None:
    interrupt_in(monkeypatch, what)
    assert run([*words]) == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("error: interrupted\n")
    assert run([*words, "--json"]) == 130
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {
        "schema": f"dynamoctl/{'cache-check' if words[0] == 'cache' else words[0]}/v1",
        "ok": False,
        "error": {"code": 130, "message": "interrupted", "hint": ""},
    }


def test_bench_says_what_has_become_of_what_ran(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_in(monkeypatch, "bench.run")
    assert run(["bench", "random"]) == 130
    shown = capsys.readouterr().err
    assert shown == "the load generator was ended; the deployment goes on\nerror: interrupted\n"


def test_ctrl_c_is_how_following_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_in(monkeypatch, "logs.read")
    monkeypatch.setattr("dynamoctl.operations.logs.units", lambda _: ["worker-0"])
    assert run(["logs", "-f"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    for more in ((), ("--json",)):
        interrupt_in(monkeypatch, "watch.watch")
        assert run(["status", "--watch", *more]) == 0
        assert capsys.readouterr() == ("", "")
        interrupt_in(monkeypatch, "watch.watch", signal.SIGTERM)
        assert run(["status", "--watch", *more]) == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_have_codes_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    interrupt_in(monkeypatch, "down.down", number)
    assert run(["down"]) == 128 + number
    assert capsys.readouterr().err == "error: interrupted\n"
    assert run(["down", "--json"]) == 128 + number
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 128 + number


def program(script: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, after a script that sees to when the signal comes."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"{script}\nfrom dynamoctl.__main__ import main\nmain()",
            *streams.pop("words"),
        ],
        text=True,
        timeout=60,
        check=False,
        **streams,
    )


WHILE_IMPORTING = """
import signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "dynamoctl.cli.status":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


def test_ctrl_c_before_the_command_has_begun() -> None:
    done = program(WHILE_IMPORTING, words=["status", "--json"], capture_output=True)
    assert (done.returncode, done.stderr) == (130, "")
    assert json.loads(done.stdout)["error"]["message"] == "interrupted"


WHILE_ASKED = """
import signal
from dynamoctl.operations import status
status.status = lambda _: signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize("words", [["status"], ["status", "--json"]])
def test_ctrl_c_that_ends_the_rest_of_a_pipeline_too(words: list[str]) -> None:
    """As in `dynamoctl up 2>&1 | tee log`: who read it has gone first."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = program(WHILE_ASKED, words=words, stdout=writing, stderr=writing)
    finally:
        os.close(writing)
    assert done.returncode == 130
