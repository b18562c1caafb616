"""Logs that do not fill the disk. Each unit has `UNIT.log` and, set aside, `UNIT.log.1`.

A unit writes to its log by itself, with every write at the end of the file, so that nothing is lost when
the supervisor dies. So a log that has become too large is copied and emptied in place; what is written in
the moment between is lost. The copy's first line says how much of the log came before it: a reader who was
somewhere in the log finds the place again.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

# Bytes. A worker writes about 0.1 MB while it starts, and some lines for a request.
LIMIT = 64 * 1024 * 1024
_PIECE = 1024 * 1024
# What may be written while the rest is copied, and still is kept.
_MEANWHILE = _PIECE // 2
_CUT = "[dynamoctl: {} bytes before this line are not kept]\n"
_CUT_LINE = re.compile(re.escape(_CUT).replace(r"\{\}", r"(\d+)").encode())


def set_aside(log: Path) -> Path:
    """Where the part before this one is."""
    return log.with_name(log.name + ".1")


def cut(first_line: bytes) -> int | None:
    """How many bytes of a log came before the part that begins with this line; None where it is no such
    part: then it is the whole log of the start before.
    """
    found = _CUT_LINE.fullmatch(first_line)
    return int(found[1]) if found else None


def bound(log: Path, limit: int = LIMIT) -> bool:
    """Empty a log of more than `limit` bytes; the last `limit` of them are set aside.

    Returns:
        Whether it was so large.
    """
    try:
        size = log.stat().st_size
    except OSError:
        return False
    if size <= limit:
        return False
    # On a full disk the old part is lost, and there is room again.
    with contextlib.suppress(OSError):
        _copy_end(log, set_aside(log), limit)
    with contextlib.suppress(OSError):
        os.truncate(log, 0)
    return True


def _copy_end(log: Path, target: Path, count: int) -> None:
    temporary = target.with_name(f".{target.name}")
    try:
        with log.open("rb") as source, open(temporary, "wb", opener=private) as copy:
            source.seek(-count, os.SEEK_END)
            source.readline()  # half a line
            copy.write(_CUT.format(source.tell()).encode())
            left = count + _MEANWHILE
            while left > 0 and (piece := source.read(min(_PIECE, left))):
                copy.write(piece)
                left -= len(piece)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def private(path: str, flags: int) -> int:
    """Opens a log, the user's alone: LMCache writes its settings there, an URL's password among them."""
    return os.open(path, flags, 0o600)
