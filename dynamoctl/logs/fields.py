"""The time and the level of a line in a unit's log. Pure.

The units are different programs with different formats. Dynamo logs UTC. vLLM, LMCache and torch log local
time, vLLM and torch without a year. A line without time and level (a line of a traceback, the rest of a long
message) belongs to the line before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

# Level numbers of Python's logging. Dynamo's `trace` is below every level that a user can select.
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

# First character of a line, after the name of its process -> formats. The first one that matches counts.
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
# First characters of a line that continues the message of an earlier line.
_REST = ("", " ", "\t")
_TRACEBACK = "Traceback (most recent call last):"
# A file's mtime has the resolution of a kernel tick (inode_set_ctime_current): 10 ms if HZ is 100.
_TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class LineFields:
    """The fields of one line.

    Attributes:
        at: when it was written, in seconds since the epoch; None if the line has no time.
        level: level number of Python's logging; None if the line has no level.
        word: begin and end of the level's word in the line without colours; None if there is no such word.
    """

    at: float | None = None
    level: int | None = None
    word: tuple[int, int] | None = None


_NOTHING = LineFields()


def plain(line: str) -> str:
    """The line without colours."""
    return ANSI.sub("", line) if "\x1b" in line else line


def level_name(level: int | None) -> str | None:
    """The name of the highest level in `LEVELS` that is not above this number; None for None."""
    if level is None:
        return None
    return max((number, name) for name, number in LEVELS.items() if number <= max(level, 10))[1]


def read(line: str, latest: float) -> LineFields:
    """The fields of a line without colours.

    Args:
        latest: mtime of the line's file, in seconds since the epoch. A later time in the line is replaced by
            it, and a time without a year is the last such moment before it.
    """
    process = _PROCESS.match(line)
    begin = process.end() if process else 0
    first = line[begin : begin + 1]
    for form in () if first in _REST else (*_FORMS.get(first, ()), *_OTHERS):
        match = form.match(line, begin)
        if match:
            return _said(match, latest)
    return _NOTHING


class Carry:
    """Reads the lines of one log in order; a line without time or level takes those of the line before.

    Attributes:
        at: time of the last line read, its own or carried over, in seconds since the epoch; None before the
            first line with a time.
        level: level of the last line read, as Python's logging numbers it; None before the first line with
            a level.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        self.level: int | None = None

    def read(self, line: str, latest: float) -> LineFields:
        """The fields of the next line. Afterwards `at` and `level` are the values that apply to it."""
        own = read(line, latest)
        if own.at is not None:
            self.at = own.at
        if own.level is not None:
            self.level = own.level
        elif own.at is not None:
            self.level = None
        elif _TRACEBACK in line and (self.level or 0) < LEVELS["warning"]:
            # A traceback without a log line of its own does not belong to a harmless line before it.
            self.level = LEVELS["error"]
        return own


def _said(match: re.Match[str], latest: float) -> LineFields:
    groups = match.groupdict()
    word = groups.get("level")
    span = match.span("level") if word else None
    level = _NUMBERS[word.lower()] if word else None
    if letter := groups.get("letter"):
        level, span = _LETTERS[letter], match.span("letter")
    for group, name in (("warns", "warning"), ("fails", "error")):
        if groups.get(group):
            level, span = LEVELS[name], match.span(group)
    at = _time(groups, latest)
    if at is not None and at > latest + _TICK_S:
        at = latest
    return LineFields(at, level, span)


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
        pass  # not a valid date: the line only looked like one with a time
    return None


def _without_year(day: str, clock: str, latest: float) -> float | None:
    """The last such moment before `latest`, or up to a day after it, because clocks jump."""
    newest = datetime.fromtimestamp(latest, UTC).year + 1
    for year in (newest, newest - 1, newest - 2):
        try:
            at = datetime.fromisoformat(f"{year}{day}T{clock}").timestamp()
        except ValueError:  # 29 February
            continue
        if at <= latest + 86400:
            return at
    return None
