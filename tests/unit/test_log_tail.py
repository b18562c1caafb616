"""Each line of a log is read once, whatever happens to its file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dynamoctl.logs import files
from dynamoctl.logs.tail import Tail
from hypothesis import given
from hypothesis import strategies as st


class Log:
    """A unit's log: its writer appends, the supervisor bounds it, a new start sets it aside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self.tail = Tail(path)

    def write(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)

    def lines(self, count: int) -> list[str]:
        """The next lines, written."""
        new = [f"line {self.written + number:06}" for number in range(count)]
        self.written += count
        self.write("".join(f"{line}\n" for line in new))
        return new

    def rotate(self, keep: int) -> None:
        """Set aside, with so many of its last lines kept."""
        assert files.bound(self.path, keep * len("line 000000\n") + 1)

    def new_start(self) -> None:
        self.path.replace(files.set_aside(self.path))

    def read(self) -> list[str]:
        return list(self.tail.more())


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    one = Log(tmp_path / "worker-0.log")
    with closing(one.tail):
        yield one


def test_whole_lines_are_read_as_they_come(log: Log) -> None:
    log.write("one\ntw")
    log.tail.begin()
    assert log.read() == ["one"]
    log.write("o\n")
    assert log.read() == ["two"]
    assert log.read() == []


def test_a_unit_that_is_restarted_goes_on_in_the_same_file(log: Log) -> None:
    first = log.lines(3)
    log.tail.begin()
    assert log.read() == first
    writer = os.open(log.path, os.O_WRONLY | os.O_APPEND)
    os.write(writer, b"again\n")
    os.close(writer)
    assert log.read() == ["again"]


@pytest.mark.parametrize("unread", [0, 1, 5, 10])
def test_what_was_written_before_a_rotation_is_read_after_it(log: Log, unread: int) -> None:
    seen = log.lines(20)
    log.tail.begin()
    assert log.read() == seen
    new = log.lines(unread)
    log.rotate(keep=10)
    new += log.lines(3)
    assert log.read() == new
    assert log.read() == []


@pytest.mark.parametrize("unread", [0, 7])
def test_a_log_that_has_grown_past_the_place_again_is_known_to_be_another(log: Log, unread: int) -> None:
    log.lines(5)
    log.tail.begin()
    log.read()
    new = log.lines(unread)
    log.rotate(keep=unread + 1)
    new += log.lines(40)
    assert log.read() == new


def test_half_a_line_is_put_together_over_a_rotation(log: Log) -> None:
    log.lines(5)
    log.write("half")
    log.tail.begin()
    log.read()
    log.write(" a")
    log.rotate(keep=3)
    log.write(" line\n")
    assert log.read() == ["half a line"]


def test_between_the_copy_and_the_emptying_nothing_is_read_twice(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.lines(20)
    log.tail.begin()
    log.read()
    new = log.lines(5)
    seen: list[str] = []
    truncate: Callable[[Path, int], None] = os.truncate

    def look_and_truncate(path: Path, size: int) -> None:
        seen.extend(log.read())
        seen.extend(log.read())
        truncate(path, size)

    monkeypatch.setattr(os, "truncate", look_and_truncate)
    log.rotate(keep=10)
    assert seen == new
    assert log.read() == []
    assert log.lines(2) == log.read()


def test_what_is_not_kept_is_said_to_who_was_too_slow(log: Log) -> None:
    seen = log.lines(2)
    log.tail.begin()
    assert log.read() == seen
    new = log.lines(20)
    log.rotate(keep=5)
    new += log.lines(1)
    gap, *rest = log.read()
    assert gap == f"[dynamoctl: {17 * 12} bytes before this line are not kept]"
    assert rest == new[-6:]


def test_two_rotations_between_two_looks_lose_what_is_not_kept_and_double_nothing(log: Log) -> None:
    seen = log.lines(20)
    log.tail.begin()
    assert log.read() == seen
    log.lines(30)
    log.rotate(keep=25)
    kept = log.lines(40)
    log.rotate(keep=39)
    kept += log.lines(2)
    gap, *rest = log.read()
    assert "not kept" in gap
    assert rest == kept[1:]


def test_a_log_that_is_emptied_without_a_copy_is_read_from_its_beginning(log: Log) -> None:
    """As on a full disk."""
    log.lines(20)
    log.tail.begin()
    log.read()
    os.truncate(log.path, 0)
    assert log.lines(2) == log.read()


def test_a_new_start_is_followed_and_the_end_of_the_old_one_is_not_lost(log: Log) -> None:
    log.lines(2)
    log.tail.begin()
    log.read()
    old = log.lines(3)
    log.write("killed while it wro")
    log.new_start()
    assert log.read() == [*old, "killed while it wro"]
    assert log.read() == []
    assert log.lines(3) == log.read()


def test_a_new_start_that_is_there_at_once_too(log: Log) -> None:
    log.lines(2)
    log.tail.begin()
    log.read()
    old = log.lines(3)
    log.new_start()
    new = log.lines(9)
    assert log.read() == old + new


def test_a_log_that_comes_later(log: Log) -> None:
    log.tail.begin()
    assert log.read() == []
    assert log.lines(2) == log.read()


def test_a_flood_without_a_line_end_is_given_out_in_parts(log: Log) -> None:
    log.tail.begin()
    log.write("x" * (5 * 1024 * 1024))
    assert sum(map(len, log.read())) > 3 * 1024 * 1024


# ---- where to begin -------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (20, 20), (21, 20), (0, 20)])
@pytest.mark.parametrize("length", [1, 400_000])
def test_the_last_lines(log: Log, count: int, shown: int, length: int) -> None:
    written = [f"{number:06}" + "x" * length for number in range(20)]
    log.write("".join(f"{line}\n" for line in written))
    log.tail.begin(count)
    assert log.read() == written[-shown:]
    assert log.lines(1) == log.read()


def test_the_last_line_may_have_no_end_yet(log: Log) -> None:
    log.write("one\ntwo\nthree")
    log.tail.begin(2)
    assert log.read() == ["two"]
    assert list(log.tail.end()) == ["three"]


def test_the_last_lines_are_looked_for_in_what_a_rotation_has_set_aside(log: Log) -> None:
    log.lines(10)
    log.rotate(keep=8)
    log.lines(2)
    log.tail.begin(4)
    assert log.read() == [f"line {number:06}" for number in range(8, 12)]


@pytest.mark.parametrize("lines", [0, 4])
def test_what_a_start_before_has_written_is_read_where_it_is_asked_for(log: Log, lines: int) -> None:
    old = log.lines(3)
    log.write("unfinished")
    log.new_start()
    new = log.lines(2)
    with closing(Tail(log.path)) as only:
        only.begin(lines)
        assert list(only.more()) == new
    log.tail.begin(lines, older=True)
    assert log.read() == [*old, "unfinished", *new][-lines:]


def test_all_of_a_rotated_log_begins_with_what_is_not_kept(log: Log) -> None:
    log.lines(10)
    log.rotate(keep=8)
    log.lines(2)
    log.tail.begin()
    assert log.read() == [
        "[dynamoctl: 24 bytes before this line are not kept]",
        *(f"line {number:06}" for number in range(2, 12)),
    ]


def test_parts_that_are_before_what_is_wanted_are_passed_over(log: Log) -> None:
    lines = log.lines(300_000)  # 3.6 MB
    read: list[bytes] = []

    def is_before(raw: bytes) -> bool:
        read.append(raw)
        return raw < b"line 250000"

    log.tail.begin(is_before=is_before)
    found = log.read()
    assert found == lines[-len(found) :]
    assert 50_000 <= len(found) < 250_000
    assert len(read) < 1_000


# ---- whatever happens -----------------------------------------------------------------------

_STEPS = st.lists(
    st.tuples(st.sampled_from(("write", "half", "look", "rotate", "start")), st.integers(0, 400)), max_size=40
)


@given(steps=_STEPS)
def test_each_line_is_read_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    """Where there is a look between a rotation or start and the next, and only what was read is cut off."""
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "worker-0.log")
        written, found = "", []
        size_read, moved = 0, False  # whole lines of this file that had been read at the last look, bytes
        log.tail.begin()
        for step, number in [*steps, ("look", 0)]:
            if step in ("write", "half"):
                text = f"{len(written)} " + "x" * number + "\n" * (step == "write")
                written += text
                log.write(text)
            elif step == "look":
                found += log.read()
                moved = False
                whole = log.path.read_bytes() if log.path.exists() else b""
                size_read = whole.rfind(b"\n") + 1
            elif moved or not log.path.exists():
                continue
            elif step == "rotate" and size_read:
                size = log.path.stat().st_size
                assert files.bound(log.path, size - 1 - number % size_read)
                size_read, moved = 0, True
            elif step == "start":
                if not written.endswith("\n"):
                    written += "\n"  # what a new start leaves unfinished is a line
                log.new_start()
                size_read, moved = 0, True
        found += log.tail.end()
        log.tail.close()
        assert found == written.splitlines()
