"""When a line of a log was written, and how bad it is, in the forms of all who write there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from dynamoctl.logs.fields import LEVELS, Carry, level_name, plain, read

INFO, WARNING, ERROR = (LEVELS[name] for name in ("info", "warning", "error"))


@pytest.fixture(autouse=True)
def _in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five hours behind UTC, so that one cannot be taken for the other."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# The log was written last on 30 November 2026.
LATEST = utc("2026-11-30T00:00")


@pytest.mark.parametrize(
    ("line", "at", "level"),
    [
        pytest.param(
            "\x1b[2m2026-11-25T02:15:02.288304Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mdynamo_runtime\x1b[0m: up",
            "2026-11-25T02:15:02.288304",
            "info",
            id="Dynamo",
        ),
        pytest.param(
            "2026-11-25T02:15:02Z  WARN mm_routing: no", "2026-11-25T02:15:02", "warning", id="Dynamo's WARN"
        ),
        pytest.param(
            "2026-11-25T02:15:02.1+01:00 TRACE x", "2026-11-25T01:15:02.1", "debug", id="with an offset"
        ),
        pytest.param(
            '{"time":"2026-11-25T02:15:02.5Z","level":"ERROR","target":"x","message":"y"}',
            "2026-11-25T02:15:02.5",
            "error",
            id="Dynamo's JSON",
        ),
        pytest.param(
            '{"level":"INFO","time":"2026-11-25T02:15:02Z"}', "2026-11-25T02:15:02", "info", id="JSON turned"
        ),
        pytest.param(
            "WARNING 11-25 02:14:59 [importing.py:73] no Triton",
            "2026-11-25T07:14:59",
            "warning",
            id="vLLM",
        ),
        pytest.param(
            "(EngineCore_DP0 pid=7005) ERROR 11-25 02:15:18 [core.py:116] Traceback (most recent call last):",
            "2026-11-25T07:15:18",
            "error",
            id="vLLM's engine",
        ),
        pytest.param(
            "\x1b[31;1m[2026-11-25 02:10:31,318] LMCache CRITICAL:\x1b[0m no memory \x1b[3m(x.py:1:x)\x1b[0m",
            "2026-11-25T07:10:31.318",
            "critical",
            id="LMCache",
        ),
        pytest.param(
            "W1125 02:15:00.083000 6928 torch/utils/cpp_extension.py:140] No CUDA",
            "2026-11-25T07:15:00.083",
            "warning",
            id="torch",
        ),
        pytest.param(
            "(Worker pid=7171) [W1125 02:15:26.348394720 utils.cpp:76] Warning: NUMA binding",
            "2026-11-25T07:15:26.348394",
            "warning",
            id="torch in C++",
        ),
        pytest.param(
            "[rank0]:[E1125 02:15:26.348394720 ProcessGroup.cpp:76] failed",
            "2026-11-25T07:15:26.348394",
            "error",
            id="a rank's",
        ),
        pytest.param(
            "I20261125 02:15:26.5 4711 master.cpp:1] up",
            "2026-11-25T07:15:26.5",
            "info",
            id="glog with a year",
        ),
        pytest.param(
            "[1795572902.500000] [host:4711:0]  ucp_context.c:1234 UCX  WARN  no rdma",
            "2026-11-25T02:15:02.5",
            "warning",
            id="UCX",
        ),
        pytest.param("host:4711:4712 [0] NCCL WARN no peer", None, "warning", id="NCCL"),
        pytest.param(
            "[2026-11-25 02:10:31] host:4711:4712 [0] NCCL WARN no peer",
            "2026-11-25T07:10:31",
            "warning",
            id="NCCL with a time",
        ),
        pytest.param('INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 200 OK', None, "info", id="uvicorn"),
        pytest.param("ERROR:root:no", None, "error", id="Python's logging"),
        pytest.param("/lib/x.py:254: FutureWarning: old", None, "warning", id="Python's warnings"),
        pytest.param("thread 'main' panicked at src/x.rs:1:2:", None, "error", id="Rust"),
        pytest.param("ValueError: INFO 11-25 02:14:59 is no model", None, None, id="no form at all"),
        pytest.param('  File "x.py", line 1, in <module>', None, None, id="a traceback's"),
        pytest.param("[2026-11-25 02:10:31] warming up", "2026-11-25T07:10:31", None, id="a time alone"),
        pytest.param("INFO 13-45 02:14:59 [x.py:1] what a day", None, "info", id="a day that is none"),
        pytest.param("", None, None, id="nothing"),
    ],
)
def test_what_a_line_says_of_itself(line: str, at: str | None, level: str | None) -> None:
    said = read(plain(line), LATEST)
    assert said.at == (None if at is None else pytest.approx(utc(at), abs=1e-5))
    assert level_name(said.level) == level


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("\x1b[2m2026-11-25T02:15:02Z\x1b[0m \x1b[33m WARN\x1b[0m x", "WARN"),
        ("(EngineCore pid=1) ERROR 11-25 02:15:18 [core.py:1] INFO", "ERROR"),
        ("W1125 02:15:00.083000 6928 x.py:140] No CUDA", "W"),
        ("/lib/x.py:254: FutureWarning: old", "FutureWarning"),
    ],
)
def test_where_the_word_of_the_level_stands(line: str, word: str) -> None:
    said = read(plain(line), LATEST)
    assert said.word is not None
    assert plain(line)[slice(*said.word)] == word


@pytest.mark.parametrize(
    ("day", "latest", "at"),
    [
        pytest.param("12-31 23:59:00", "2027-01-02T00:00", "2027-01-01T04:59", id="over New Year"),
        pytest.param("01-02 00:00:00", "2026-12-30T00:00", "2026-01-02T05:00", id="long ago"),
        pytest.param("02-29 12:00:00", "2029-01-01T00:00", "2028-02-29T17:00", id="a leap day"),
    ],
)
def test_a_time_without_a_year_is_the_last_one_before_its_file_was_written(
    day: str, latest: str, at: str
) -> None:
    assert read(f"INFO {day} [x.py:1] x", utc(latest)).at == utc(at)


def test_no_line_is_younger_than_its_file() -> None:
    """As with a program whose time zone is another than ours."""
    assert read("2026-12-24T00:00:00Z INFO x: y", LATEST).at == LATEST


def test_a_line_keeps_its_time_where_its_file_has_that_of_the_tick_before() -> None:
    written = utc("2026-11-25T10:00:00.995")
    assert read("2026-11-25T10:00:01.000Z INFO x: y", written).at == utc("2026-11-25T10:00:01")


def carried(*lines: str) -> list[tuple[float | None, int | None]]:
    carry = Carry()
    found = []
    for line in lines:
        carry.read(line, LATEST)
        found.append((carry.at, carry.level))
    return found


def test_what_a_line_does_not_say_is_what_the_one_before_it_said() -> None:
    at = utc("2026-11-25T07:14:59")
    assert carried(
        "at first",
        "ERROR 11-25 02:14:59 [x.py:1] failed",
        "  because of this",
        'INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 200 OK',
        "and more",
    ) == [(None, None), (at, ERROR), (at, ERROR), (at, INFO), (at, INFO)]


@pytest.mark.parametrize(
    ("before", "level"),
    [
        pytest.param("INFO 11-25 02:14:59 [x.py:1] fine", ERROR, id="nobody logged it"),
        pytest.param("WARNING 11-25 02:14:59 [x.py:1] it goes on", WARNING, id="logged as a warning"),
    ],
)
def test_a_traceback_is_an_error_unless_it_was_logged_as_a_warning(before: str, level: int) -> None:
    lines = ["(Worker pid=1) Traceback (most recent call last):", "  File", "ValueError: no"]
    assert [found for _, found in carried(before, *lines)][1:] == [level] * 3


def test_a_line_with_a_time_and_no_level_does_not_belong_to_the_one_before_it() -> None:
    assert carried("ERROR 11-25 02:14:59 [x.py:1] no", "[2026-11-25 02:15:31] on")[1][1] is None
