"""A log that has become too large is set aside and emptied in place, under its writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dynamoctl.logs import files


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker-0.log"


def line(number: int) -> bytes:
    return b"%019d\n" % number


def test_its_last_part_is_set_aside_in_whole_lines_and_its_writer_goes_on(
    log: Path,
) -> None:
    writer = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for number in range(100):
            os.write(writer, line(number))
        assert files.bound(log, 410)
        os.write(writer, line(100))
    finally:
        os.close(writer)
    assert log.read_bytes() == line(100)
    aside = files.set_aside(log)
    first, _, rest = aside.read_bytes().partition(b"\n")
    assert first == b"[dynamoctl: 1600 bytes before this line are not kept]"
    assert rest == b"".join(line(number) for number in range(80, 100))
    assert files.cut(first + b"\n") == 1600
    assert aside.stat().st_mode & 0o077 == 0
    assert sorted(log.parent.iterdir()) == [log, aside]


def test_a_small_one_and_none_are_left_alone(log: Path) -> None:
    assert not files.bound(log, 40)
    log.write_bytes(line(1) + line(2))
    assert not files.bound(log, 40)
    assert log.read_bytes() == line(1) + line(2)
    assert list(log.parent.iterdir()) == [log]


def test_where_nothing_can_be_set_aside_it_is_emptied_all_the_same(log: Path) -> None:
    """As on a full disk: room matters more than old lines."""
    log.write_bytes(line(1) * 10)
    files.set_aside(log).mkdir()
    assert files.bound(log, 40)
    assert log.stat().st_size == 0
    assert sorted(log.parent.iterdir()) == [log, files.set_aside(log)]


def test_what_is_written_while_it_is_copied_is_copied_too(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(b"".join(map(line, range(100))))
    private = files.private

    def write_meanwhile(path: str, flags: int) -> int:
        with log.open("ab") as writer:
            writer.write(line(100))
        return private(path, flags)

    monkeypatch.setattr(files, "private", write_meanwhile)
    assert files.bound(log, 410)
    assert files.set_aside(log).read_bytes().endswith(line(99) + line(100))


@pytest.mark.parametrize("first", [b"", line(1), b"[dynamoctl: many bytes before this line are not kept]\n"])
def test_a_log_of_the_start_before_says_no_such_thing(first: bytes) -> None:
    assert files.cut(first) is None
