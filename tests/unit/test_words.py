from __future__ import annotations

from datetime import UTC, datetime

import pytest
from dynamoctl.humanize import count, duration, iso, moment, nearest


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (11_520, "3 h 12 min"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(0, "0 workers"), (1, "1 worker"), (2, "2 workers")])
def test_count(number: int, words: str) -> None:
    assert count(number, "worker") == words


def test_the_nearest_word_is_named() -> None:
    assert nearest("prot", ["port", "host", "model"]) == "did you mean 'port'?"


def test_where_none_is_near_a_few_are_listed() -> None:
    assert nearest("xyzzy", ["port", "host"]) == "known are: host, port"


def test_where_none_is_near_many_are_not_listed() -> None:
    assert nearest("xyzzy", [f"word-{i}" for i in range(21)]) == ""


NOW = datetime(2026, 11, 25, 10, 0, 0).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds_ago"),
    [
        ("30s", 30),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86_400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2 d", 172_800),
        ("09:58", 120),
        ("9:59:30", 30),
        ("10:00", 0),
        ("12:34", 86_400 - 2 * 3600 - 34 * 60),
        ("2026-11-25", 36_000),
        ("2026-11-25T09:00", 3600),
        ("2026-11-25 09:59:59", 1),
    ],
)
def test_a_moment(text: str, seconds_ago: float) -> None:
    assert NOW - moment(text, NOW) == seconds_ago


def test_a_moment_may_say_where_its_time_is() -> None:
    assert moment("2026-11-25T12:34:56Z", NOW) == datetime(2026, 11, 25, 12, 34, 56, tzinfo=UTC).timestamp()
    assert moment("2026-11-25T12:34+02:00", NOW) == datetime(2026, 11, 25, 10, 34, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("text", ["", "10", "5x", "yesterday", "25:00", "-5m", "m", "2026-13-01", "12:3"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        moment(text, NOW)


def test_a_moment_in_iso() -> None:
    assert iso(moment("2026-11-25T12:34:56.5Z", NOW)) == "2026-11-25T12:34:56.500000Z"
