from __future__ import annotations

import pytest
from dynamoctl.words import count, duration, nearest


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
