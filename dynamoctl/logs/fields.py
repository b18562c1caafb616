"""What a line of a unit's log says of itself: when it was written, and how bad it is. Pure.

The units are different programs, and each has a form of its own. The times of Dynamo's are UTC; vLLM's,
LMCache's and torch's are local, and vLLM's and torch's have no year. A line that says nothing of itself (a
line of a traceback, the rest of a long message) belongs to the line before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

# As Python's logging has them. Dynamo's `trace` is below all that can be asked for.
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_NUMBERS = {
    **LEVELS,
    "trace": 5,
    "warn": LEVELS["warning"],
    "err": LEVELS["error"],
    "fatal": LEVELS["critical"],
}
_LETTERS = {"I": 20, "W": 30, "E": 40, "F": 50, "D": 10}

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_WORD = r"(?P<level>TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)"
_DATE = r"(?P<date>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)"

_DYNAMO = rf"{_DATE}[ :|-]*(?:{_WORD}\b)?"  # 2026-11-25T02:03:04.123456Z  INFO module: message
_VLLM = rf"{_WORD} (?P<day>\d\d-\d\d) (?P<clock>\d\d:\d\d:\d\d)\b"  # INFO 11-25 02:03:04 [file.py:1] message
# [2026-11-25 02:03:04,123] LMCache INFO: message; NCCL has its host and more before the level
_LMCACHE = rf"\[{_DATE}\] ?(?:(?:\S+ ){{0,5}}?{_WORD}\b)?"
# W1125 02:03:04.123456 4711 file.py:1] message; glog's may begin with the year
_TORCH = r"\[?(?P<letter>[DIWEF])(?P<year>\d{4})?(?P<day>\d{4}) (?P<clock>\d\d:\d\d:\d\d(?:\.\d+)?)\b"
# [1700000000.123456] [host:4711:0] file.c:1 UCX  WARN  message
_UCX = rf"\[(?P<epoch>\d{{9,}}\.\d+)\] \[.*? UCX +(?:{_WORD}\b)?"
_NCCL = rf"\S+:\d+:\d+ \[\d+\] NCCL {_WORD}\b"
# DYN_LOGGING_JSONL: {"time":"2026-11-25T02:03:04Z","level":"INFO",...}
_DYNAMO_JSON = rf'\{{(?=.*?"time(?:stamp)?": ?"{_DATE}")(?=.*?"level": ?"{_WORD}")'
_BARE = rf"{_WORD}:"  # uvicorn, and Python's logging by itself
_PYTHON = r"\S+:\d+: (?P<warns>\w*Warning): "  # /path/file.py:1: UserWarning: message
_RUST = r"thread '[^']*' (?P<fails>panicked) at "

# By the character that a line begins with, after the name of its process. The first that fits counts.
_FORMS = {
    first: tuple(re.compile(form) for form in forms)
    for firsts, forms in (
        ("0123456789", (_DYNAMO,)),
        ("[", (_LMCACHE, _TORCH, _UCX)),
        ("TDIWECF", (_VLLM, _TORCH, _BARE)),
        ("{", (_DYNAMO_JSON,)),
    )
    for first in firsts
}
_OTHERS = tuple(re.compile(form) for form in (_NCCL, _PYTHON, _RUST))
# (EngineCore pid=4711), and [rank0]: of torch
_PROCESS = re.compile(r"(?:\(\w+ pid=\d+\) |\[rank\d+\]:? ?)+")
# The rest of a message that began on a line before.
_REST = ("", " ", "\t")
_TRACEBACK = "Traceback (most recent call last):"
# A file's time is the kernel's at its last tick (inode_set_ctime_current): 10 ms where HZ is 100.
_TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Said:
    """What a line says of itself.

    Attributes:
        at: when it was written, seconds since the epoch; None where it has no time.
        level: as Python's logging numbers it; None where it has none.
        word: where its level stands in the line without colours: begin and end; None where it is no word.
    """

    at: float | None = None
    level: int | None = None
    word: tuple[int, int] | None = None


_NOTHING = Said()


def plain(line: str) -> str:
    """The line without colours."""
    return ANSI.sub("", line) if "\x1b" in line else line


def level_name(level: int | None) -> str | None:
    """The worst of the levels that can be asked for that is not worse than this; None where it has none."""
    if level is None:
        return None
    return max((number, name) for name, number in LEVELS.items() if number <= max(level, 10))[1]


def read(line: str, latest: float) -> Said:
    """What a line without colours says of itself.

    Args:
        latest: when its file was written last, seconds since the epoch. No line is younger, but for a tick of
            the kernel's, and where a time has no year, it is the last one before this.
    """
    process = _PROCESS.match(line)
    begin = process.end() if process else 0
    first = line[begin : begin + 1]
    for form in () if first in _REST else (*_FORMS.get(first, ()), *_OTHERS):
        found = form.match(line, begin)
        if found:
            return _said(found, latest)
    return _NOTHING


class Carry:
    """Reads one log's lines in their order: what a line does not say is what the one before it said.

    Attributes:
        at: the time of the last line that was read, its own or carried over; None before the first.
        level: its level; None before the first that has one.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        self.level: int | None = None

    def read(self, line: str, latest: float) -> Said:
        """What the next line says of itself; `at` and `level` are then what holds for it."""
        said = read(line, latest)
        if said.at is not None:
            self.at = said.at
        if said.level is not None:
            self.level = said.level
        elif said.at is not None:
            self.level = None
        elif _TRACEBACK in line and (self.level or 0) < LEVELS["warning"]:
            # Nobody logged it: it is not part of the harmless line before it.
            self.level = LEVELS["error"]
        return said


def _said(found: re.Match[str], latest: float) -> Said:
    groups = found.groupdict()
    word = groups.get("level")
    span = found.span("level") if word else None
    level = _NUMBERS[word.lower()] if word else None
    if letter := groups.get("letter"):
        level, span = _LETTERS[letter], found.span("letter")
    for group, name in (("warns", "warning"), ("fails", "error")):
        if groups.get(group):
            level, span = LEVELS[name], found.span(group)
    at = _time(groups, latest)
    if at is not None and at > latest + _TICK_S:
        at = latest
    return Said(at, level, span)


def _time(groups: dict[str, str | None], latest: float) -> float | None:
    try:
        if epoch := groups.get("epoch"):
            return float(epoch)
        if date := groups.get("date"):
            return datetime.fromisoformat(date.replace(",", ".")).timestamp()
        if (day := groups.get("day")) and (clock := groups.get("clock")):
            if year := groups.get("year"):
                return datetime.fromisoformat(f"{year}{day}T{clock}").timestamp()
            return _without_year(day.replace("-", ""), clock, latest)
    except (ValueError, OverflowError):
        pass  # no date of this world: a line that looked like one with a time
    return None


def _without_year(day: str, clock: str, latest: float) -> float | None:
    """The last such moment before `latest`, or up to a day after it: clocks jump."""
    newest = datetime.fromtimestamp(latest, UTC).year + 1
    for year in (newest, newest - 1, newest - 2):
        try:
            at = datetime.fromisoformat(f"{year}{day}T{clock}").timestamp()
        except ValueError:  # 29 February
            continue
        if at <= latest + 86400:
            return at
    return None
