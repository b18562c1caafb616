"""Log rotation. Each unit has `UNIT.log` and the rotated part `UNIT.log.1`.

A unit writes to its log directly (O_APPEND), so that nothing is lost if the supervisor dies. A log that is
too large is therefore copied and truncated in place; lines written between copy and truncation are lost. The
first line of the copy says how many bytes of the log came before it, so that a reader finds its place again.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

# Largest size of a log, in bytes. A worker writes about 0.1 MB while it starts, and some lines per request.
LIMIT = 64 * 1024 * 1024
_PIECE = 1024 * 1024
# Bytes that may be written during the copy and are still kept.
_MEANWHILE = _PIECE // 2
_CUT = "[dynamoctl: {} bytes before this line are not kept]\n"
_CUT_LINE = re.compile(re.escape(_CUT).replace(r"\{\}", r"(\d+)").encode())


def set_aside(log: Path) -> Path:
    """The path of a log's rotated part."""
    return log.with_name(log.name + ".1")


def cut(first_line: bytes) -> int | None:
    """Bytes of the log that came before a rotated part, from the part's first line.

    None if the file is not such a part: then it is the whole log of the start before.
    """
    match = _CUT_LINE.fullmatch(first_line)
    return int(match[1]) if match else None


def bound(log: Path, limit: int = LIMIT) -> bool:
    """Truncate a log of more than `limit` bytes; its last `limit` bytes become the rotated part.

    Returns:
        Whether the log was larger than `limit`.
    """
    try:
        size = log.stat().st_size
    except OSError:
        return False
    if size <= limit:
        return False
    # If the copy fails (full disk), the old lines are lost, and the truncation frees space.
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
            source.readline()  # the rest of a partial line
            copy.write(_CUT.format(source.tell()).encode())
            left = count + _MEANWHILE
            while left > 0 and (piece := source.read(min(_PIECE, left))):
                copy.write(piece)
                left -= len(piece)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def private(path: str, flags: int) -> int:
    """Open a log with mode 0600: LMCache logs its settings, including passwords in URLs."""
    return os.open(path, flags, 0o600)
