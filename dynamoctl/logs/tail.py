"""Follow one log: each line once, across restarts of its unit, new starts and rotation.

A restarted unit appends to the same file. A new start renames the file to `UNIT.log.1` and begins another. A
log that is too large is copied to `UNIT.log.1` and then truncated (`logs.files`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from dynamoctl.logs import files

_PIECE = 1024 * 1024
# A longer line is returned in parts.
_LONGEST_LINE = 1024 * 1024
# Number of bytes before the current position by which a file is recognised.
_KNOWN = 256
_LONGEST_CUT_LINE = 200


class Tail:
    """One log, read from the last position on.

    Attributes:
        latest: mtime of the file of the last line, in seconds since the epoch.
    """

    def __init__(self, path: Path) -> None:
        self.latest = 0.0
        self._path = path
        self._aside_path = files.set_aside(path)
        self._aside: tuple[int, int] | None = (
            None  # inode and mtime of the rotated part when it was last seen
        )
        self._file: BinaryIO | None = None
        self._at = 0
        self._known = b""  # the bytes before `_at`
        self._rest = b""  # a partial line
        self._before: tuple[BinaryIO, int] | None = None  # the rotated part, if it is to be read first

    def begin(
        self, lines: int = 0, older: bool = False, is_before: Callable[[bytes], bool] | None = None
    ) -> None:
        """Set the position of the first line. The default is the beginning of this start's log.

        Args:
            lines: begin at the last `lines` lines; 0 for all.
            older: begin with the log of the start before, if it exists.
            is_before: whether a line is before the first wanted one; older lines are then skipped.
        """
        aside = _open(self._aside_path)
        self._aside = _which(aside)
        self._file = _open(self._path)
        lines_found, begins = 0, False
        if self._file is not None:
            self._at, lines_found, begins = _place(self._file, lines, is_before)
            self._known = _before(self._file, self._at)
        if aside is None:
            return
        rotated = _cut(aside)[0] is not None
        if begins or not (older or rotated):
            aside.close()
            return
        at, _, _ = _place(aside, lines - lines_found if lines else 0, is_before)
        self._before = (aside, at)

    def more(self) -> Iterator[str]:
        """All complete lines that were not returned yet."""
        yield from self._set_aside_before()
        while True:
            if self._file is None:
                yield from self._missed()
                self._file, self._at, self._known = _open(self._path), 0, b""
                if self._file is None:
                    return
            size = self._size(self._file)
            with ExitStack() as opened:
                aside = _open(self._aside_path)
                if aside is not None:
                    opened.enter_context(aside)
                step = self._next(self._file, size, aside)
                if step == "read":
                    yield from self._read(self._file, size)
                elif step == "emptied":
                    yield from self._emptied(aside)
                elif step == "renamed":
                    self._aside = _which(self._file)
                    yield from self.end()
                    self._file.close()
                    self._file = None
                else:
                    return

    def end(self) -> Iterator[str]:
        """The last line, if its line end was never written."""
        rest, self._rest = self._rest, b""
        for raw in rest.splitlines():
            yield raw.decode(errors="replace")

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._before and self._before[0]):
            if file is not None:
                file.close()

    def _next(self, file: BinaryIO, size: int, aside: BinaryIO | None) -> str:
        """The next step. `size` must be read before `aside` is opened, because a log is truncated last."""
        if size < self._at or _before(file, self._at) != self._known:
            return "emptied"
        if aside is not None and _which(aside) != self._aside and size < _length_with(aside):
            return "emptied"  # and nothing of it was read yet, or it begins like the last one
        if size > self._at:
            return "read"
        if not _is_at(file, self._path) and (_is_at(file, self._aside_path) or self._path.exists()):
            return "renamed"
        return "wait"

    def _read(self, file: BinaryIO, size: int) -> Iterator[str]:
        piece = os.pread(file.fileno(), min(_PIECE, size - self._at), self._at)
        if self._size(file) < size:
            return  # truncated meanwhile: its content is in the rotated part now
        self._at += len(piece)
        self._known = (self._known + piece)[-_KNOWN:]
        yield from self._lines(piece)

    def _emptied(self, aside: BinaryIO | None) -> Iterator[str]:
        """The unread lines of a truncated log, from the rotated part, unless the copy failed."""
        current = _which(aside)
        if aside is None or current == self._aside:
            yield from self.end()
        else:
            self._aside = current
            place = self._place_in(aside)
            if not place:
                yield from self.end()
            yield from self._all_of(aside, place)
        self._at, self._known = 0, b""

    def _set_aside_before(self) -> Iterator[str]:
        """The lines of a part that was rotated before the first read, once, if they are wanted."""
        if self._before is None:
            return
        aside, at = self._before
        self._before = None
        with aside:
            yield from self._all_of(aside, at)
            if _cut(aside)[0] is None:
                yield from self.end()

    def _place_in(self, aside: BinaryIO) -> int:
        """The offset of the first unread byte in the rotated part; 0 if it cannot be found."""
        before, head = _cut(aside)
        if before is None or self._at < before:
            return 0
        place = head + self._at - before
        known = self._known[-(self._at - before) :] if self._at > before else b""
        return place if _before(aside, place).endswith(known) else 0

    def _missed(self) -> Iterator[str]:
        """The lines of a log that was made and renamed since the last call."""
        aside = _open(self._aside_path)
        if aside is None:
            return
        with aside:
            current, last = _which(aside), self._aside
            if current is None or (last is not None and current[0] == last[0]):
                return
            self._aside = current
            yield from self._all_of(aside, 0)
            if _cut(aside)[0] is None:
                yield from self.end()

    def _all_of(self, file: BinaryIO, at: int) -> Iterator[str]:
        self.latest = os.fstat(file.fileno()).st_mtime
        while piece := os.pread(file.fileno(), _PIECE, at):
            at += len(piece)
            yield from self._lines(piece)

    def _lines(self, piece: bytes) -> Iterator[str]:
        whole, end, rest = (self._rest + piece).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, end, rest = whole + end + rest, b"", b""
        self._rest = rest
        for raw in (whole + end).splitlines():
            yield raw.decode(errors="replace")

    def _size(self, file: BinaryIO) -> int:
        status = os.fstat(file.fileno())
        self.latest = status.st_mtime
        return status.st_size


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _which(file: BinaryIO | None) -> tuple[int, int] | None:
    """A file's inode and its mtime in ns."""
    if file is None:
        return None
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_mtime_ns


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _before(file: BinaryIO, at: int) -> bytes:
    count = min(_KNOWN, at)
    return os.pread(file.fileno(), count, at - count)


def _cut(aside: BinaryIO) -> tuple[int | None, int]:
    """Bytes of the log that came before the rotated part, and the length of the line that says so.

    None and 0 if the file is a whole log.
    """
    aside.seek(0)
    first = aside.readline(_LONGEST_CUT_LINE)
    before = files.cut(first)
    return before, 0 if before is None else len(first)


def _length_with(aside: BinaryIO) -> int:
    """Size of the log when this part was rotated, in bytes; 0 if the file is a whole log."""
    before, head = _cut(aside)
    return 0 if before is None else before + os.fstat(aside.fileno()).st_size - head


def _place(file: BinaryIO, lines: int, is_before: Callable[[bytes], bool] | None) -> tuple[int, int, bool]:
    """Where to begin in a file: (offset in bytes, number of lines after it, whether no older line is wanted).

    The number of lines is only counted if `lines` is not 0.
    """
    size = os.fstat(file.fileno()).st_size
    if lines:
        return _last(file, size, lines)
    at = size
    while is_before is not None and at > 0:
        at = max(0, at - _PIECE)
        piece = os.pread(file.fileno(), _PIECE, at)
        first = piece.find(b"\n") + 1 if at else 0
        for raw in piece[first:].splitlines()[:200]:
            if is_before(raw):
                return at + first, 0, True
    return 0, 0, False


def _last(file: BinaryIO, size: int, lines: int) -> tuple[int, int, bool]:
    """As `_place`, for the last `lines` lines; counts line ends from the end of the file."""
    at, ends, is_last = size, 0, True
    while at > 0:
        begin = max(0, at - _PIECE)
        piece = os.pread(file.fileno(), at - begin, begin)
        place = len(piece)
        if is_last and piece.endswith(b"\n"):
            place -= 1  # the end of the last line itself
        is_last = False
        while (place := piece.rfind(b"\n", 0, place)) >= 0:
            ends += 1
            if ends == lines:
                return begin + place + 1, lines, True
        at = begin
    return 0, ends + 1 if size else 0, False
