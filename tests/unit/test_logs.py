"""`dynamoctl logs`: which lines, in which order, and how they look."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.cli import draw, run
from dynamoctl.logs import fields, files
from dynamoctl.operations import logs
from dynamoctl.supervisor.journal import say
from rich.console import Console

DYNAMO = "\x1b[2m{}Z\x1b[0m \x1b[32m {}\x1b[0m {}\n"
FRONTEND = [
    "/lib/x.py:1: FutureWarning: old\n",
    DYNAMO.format("2026-11-25T10:00:00.5", "INFO", "frontend starts"),
    DYNAMO.format("2026-11-25T10:00:30", "INFO", "chat enabled"),
    DYNAMO.format("2026-11-25T10:05:00", "WARN", "a client has gone"),
]
WORKER = [
    "INFO 11-25 10:00:10 [core.py:1] worker starts\n",
    "(EngineCore pid=7) ERROR 11-25 10:04:00 [core.py:2] it failed\n",
    "(EngineCore pid=7)   because of Chat\n",
    "[2026-11-25 10:06:00,000] LMCache INFO: goes on\n",
    "redis://user:secret@host is the store\n",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The logs of a deployment on a host whose local time is UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("DYNAMOCTL_HOME", str(tmp_path))
        patch.setenv("TZ", "UTC")
        time.tzset()
        made = tmp_path / "deployments" / "default" / "logs"
        made.mkdir(parents=True)
        for unit, lines in (("frontend", FRONTEND), ("worker-0", WORKER)):
            write(made / f"{unit}.log", lines)
        yield made
    time.tzset()


def write(log: Path, lines: list[str]) -> None:
    log.write_text("".join(lines), encoding="utf-8")
    written = time.mktime((2026, 11, 25, 12, 0, 0, 0, 0, 0))
    os.utime(log, (written, written))


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert run(["logs", *words]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("folder")
def test_all_units_are_merged_by_time_each_in_its_own_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys) == [
        "frontend  /lib/x.py:1: FutureWarning: old",
        "frontend  2026-11-25T10:00:00.5Z  INFO frontend starts",
        "worker-0  INFO 11-25 10:00:10 [core.py:1] worker starts",
        "frontend  2026-11-25T10:00:30Z  INFO chat enabled",
        "worker-0  (EngineCore pid=7) ERROR 11-25 10:04:00 [core.py:2] it failed",
        "worker-0  (EngineCore pid=7)   because of Chat",
        "frontend  2026-11-25T10:05:00Z  WARN a client has gone",
        "worker-0  [2026-11-25 10:06:00,000] LMCache INFO: goes on",
        "worker-0  redis://***@host is the store",
    ]


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["-g", "chat"], ["chat enabled"]),
        (["-g", "chat", "-i"], ["chat enabled", "because of Chat"]),
        (["--grep", r"^\S+Z +INFO"], ["frontend starts", "chat enabled"]),
        (["-g", "secret"], []),
        (["--level", "error"], ["it failed", "because of Chat"]),
        (["--level", "warning"], ["old", "it failed", "because of Chat", "a client has gone"]),
        (["--since", "2026-11-25T10:04:30Z"], ["a client has gone", "goes on", "is the store"]),
        (["--since", "2026-11-25T10:04:00", "worker-0"],
         ["it failed", "because of Chat", "goes on", "is the store"]),
        (["--since", "2026-11-25", "--level", "warning", "-g", "old|of|gone"],
         ["old", "because of Chat", "a client has gone"]),
        (["-g", "s", "-l", "1"], ["a client has gone", "is the store"]),
        (["-l", "1"], ["a client has gone", "is the store"]),
        (["worker-0", "--level", "error", "-l", "1"], ["because of Chat"]),
        (["worker-0", "-l", "2"], ["goes on", "is the store"]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_which_lines(capsys: pytest.CaptureFixture[str], words: list[str], ends: list[str]) -> None:
    found = shown(capsys, *words)
    assert len(found) == len(ends)
    assert all(line.endswith(end) for line, end in zip(found, ends, strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-g", "a(b"], "--grep: missing ), unterminated subpattern at position 1\n  a(b\n   ^"),
        (["-g", "[z-a]"], "--grep: bad character range z-a at position 1"),
        (["--since", "soon"], "--since: 'soon' is not a time"),
        (["--level", "loud"], "'loud' is not one of 'debug', 'info', 'warning', 'error', 'critical'"),
        (["-i"], "only works with --grep"),
        (["-l", "-1"], "-1"),
        (["worker-1"], "did you mean 'worker-0'?"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_makes_no_sense_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["logs", *words]) == 2
    assert message in capsys.readouterr().err


def test_json_says_when_and_how_bad(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    write(folder / "worker-0.log", ["no time\n"])
    assert run(["logs", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["name"]) == ("dynamoctl/logs/v1", "default")
    assert [(one["unit"], one["time"], one["level"]) for one in body["lines"]] == [
        ("frontend", "2026-11-25T10:00:00.500000Z", "warning"),
        ("frontend", "2026-11-25T10:00:00.500000Z", "info"),
        ("frontend", "2026-11-25T10:00:30.000000Z", "info"),
        ("frontend", "2026-11-25T10:05:00.000000Z", "warning"),
        # Nothing in it has a time: it was written when its file was.
        ("worker-0", "2026-11-25T12:00:00.000000Z", None),
    ]
    assert body["lines"][-1]["line"] == "no time"


def test_what_the_start_before_wrote_is_asked_for(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    write(folder / "worker-0.log.1", ["INFO 11-24 10:00:00 [x.py:1] the day before"])
    new = shown(capsys, "worker-0")
    assert not any("the day before" in line for line in new)
    assert len(shown(capsys, "worker-0", "-g", "the")) == 1
    assert shown(capsys, "worker-0", "-l", "0") == ["INFO 11-24 10:00:00 [x.py:1] the day before", *new]
    assert shown(capsys, "worker-0", "--since", "2026-11-24")[0].endswith("the day before")
    assert not any("day before" in line for line in shown(capsys, "worker-0", "--since", "2026-11-25"))


def test_a_log_that_was_too_large_is_read_with_what_is_kept_of_it(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    log = folder / "worker-0.log"
    write(log, [f"INFO 11-25 10:00:{number:02} [x.py:1] line\n" for number in range(20)])
    files.bound(log, 410)
    write(log, ["INFO 11-25 10:00:59 [x.py:1] last"])
    assert len(shown(capsys, "worker-0", "-l", "3")) == 3
    kept = shown(capsys, "worker-0")
    assert "bytes before this line are not kept" in kept[0]
    assert kept[-2:] == ["INFO 11-25 10:00:19 [x.py:1] line", "INFO 11-25 10:00:59 [x.py:1] last"]


def test_the_supervisors_own_lines_have_a_time_and_a_level(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    began = time.time()
    say("worker-0 is started")
    say("no room", "WARN")
    say("it failed\nbecause", "ERROR")
    said = capsys.readouterr().err
    (folder / "supervisor.log").write_text(said, encoding="utf-8")
    # The kernel gives a file the time of its last tick.
    os.utime(folder / "supervisor.log", (began - 0.004, began - 0.004))
    found = list(logs.read("default", "supervisor", logs.Query(), follow=False))
    assert [line.level for line in found] == [20, 30, 40, 40]
    # Written to the microsecond.
    assert all(began - 1e-6 <= line.at <= time.time() + 1e-6 for line in found)


# ---- following ------------------------------------------------------------------------------


def test_lines_are_followed_as_they_come_and_belong_to_the_ones_before_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they say of their time: they are new. A unit that comes later is followed too."""
    append(folder / "worker-1.log.1", "ERROR: of another start\n")
    worker, other = folder / "worker-0.log", folder / "worker-1.log"
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: append(worker, "ERROR 11-25 09:00:00 [x.py:1] again\n  and aga"),
            lambda: append(worker, "in\nINFO: fine\n"),
            lambda: append(other, "ERROR 11-25 09:00:00 [x.py:1] new\n"),
            lambda: worker.replace(files.set_aside(worker)),
            lambda: append(worker, "Traceback (most recent call last):\n"),
        ]
    )

    def sleep(_: float) -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(time, "sleep", sleep)
    found = []
    wanted = logs.query(None, "2026-11-25T11:00", None, False, "error")
    with contextlib.suppress(KeyboardInterrupt):
        for line in logs.read("default", None, wanted, follow=True):
            found.append((line.unit, line.text))
    assert found == [
        ("worker-0", "ERROR 11-25 09:00:00 [x.py:1] again"),
        ("worker-0", "  and again"),
        ("worker-1", "ERROR 11-25 09:00:00 [x.py:1] new"),
        ("worker-0", "Traceback (most recent call last):"),
    ]


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_who_reads_may_go_away(folder: Path) -> None:
    append(folder / "worker-0.log", "line\n" * 100_000)
    command = [sys.executable, "-m", "dynamoctl", "logs", "worker-0", "-l", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        reading.stdout.readline()
        reading.stdout.close()
        assert reading.stderr is not None
        assert reading.stderr.read() == b""
    assert reading.returncode == 0


# ---- colours --------------------------------------------------------------------------------


def drawn(lines: list[tuple[str, str]], **settings: Any) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, highlight=False, soft_wrap=True, **settings)
    printer = draw.LogPrinter(["frontend", "worker-0"], several=True, at_once=True, out=console)
    for unit, text in lines:
        said = fields.read(fields.plain(text), time.time())
        printer.line(logs.Line(unit, text, 0.0, said.level, said.word))
    return out.getvalue().splitlines()


MIXED = [
    ("worker-0", "ERROR 11-25 09:00:00 [x.py:1] no"),
    ("frontend", DYNAMO.format("2026-11-25T10:00:30", "WARN", "hm").rstrip()),
    ("worker-0", "INFO 11-25 09:00:00 [x.py:1] fine"),
    ("worker-10", "  on"),
]


def test_on_a_terminal_units_and_what_is_wrong_are_coloured() -> None:
    error, warning, info, other = drawn(MIXED, force_terminal=True, color_system="standard", no_color=False)
    assert error == "\x1b[35mworker-0  \x1b[0m\x1b[1;31mERROR\x1b[0m 11-25 09:00:00 [x.py:1] no"
    assert warning.startswith("\x1b[36mfrontend  \x1b[0m\x1b[2m2026-11-25T10:00:30Z\x1b[0m ")
    assert "\x1b[33mWARN\x1b[0m" in warning
    assert info == "\x1b[35mworker-0  \x1b[0mINFO 11-25 09:00:00 [x.py:1] fine"
    assert other == "\x1b[32mworker-10  \x1b[0m  on"


def test_the_colour_of_a_unit_does_not_depend_on_who_speaks_first() -> None:
    settings: dict[str, Any] = {"force_terminal": True, "color_system": "standard", "no_color": False}
    assert drawn(MIXED, **settings)[2] == drawn(MIXED[2:], **settings)[0]


@pytest.mark.parametrize("settings", [{}, {"force_terminal": True, "no_color": True}])
def test_without_a_terminal_or_with_no_color_there_is_none(settings: dict[str, Any]) -> None:
    assert drawn(MIXED, **settings) == [
        "worker-0  ERROR 11-25 09:00:00 [x.py:1] no",
        "frontend  2026-11-25T10:00:30Z  WARN hm",
        "worker-0  INFO 11-25 09:00:00 [x.py:1] fine",
        "worker-10    on",
    ]
