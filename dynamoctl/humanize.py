"""Conversions between values and text of people: durations, counts, times, paths, name hints, docstrings."""

from __future__ import annotations

import difflib
import os.path
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGO = re.compile(r"(\d+(?:\.\d+)?) ?(ms|[smhdw])")
_CLOCK = re.compile(r"\d\d?:\d\d(?::\d\d)?")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the known word nearest to `word`, or with all of them if none is near and there are few."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known are: " + ", ".join(names) if len(names) <= 20 else ""


def path_of(text: str) -> Path:
    """A path as a person writes it: ~ is the home, and ~nobody is a name like any other, as in a shell."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  (pathlib's raises for a user that it does not know)


def is_utf8(value: object) -> bool:
    """Whether a value as text has no bytes that are not UTF-8, which arguments and variables may have."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def duration(seconds: float) -> str:
    """A duration as `7 s`, `2 min 5 s` or `3 h 12 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_line(text: str) -> str:
    """The text with `?` for each unprintable character, for a comment in a file that is executed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def attributes(kind: type) -> dict[str, str]:
    """The `Attributes:` section of a class's docstring: name -> text. `a, b: text` applies to both names."""
    import inspect

    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    return {
        name: words[0].upper() + words[1:] for names, words in _entries(section) for name in names.split(", ")
    }


def _entries(section: str) -> Iterator[tuple[str, str]]:
    names, words = "", ""
    for line in section.splitlines():
        begin = re.match(r"    (\w[\w, ]*): (.*)", line)
        if begin:
            if names:
                yield names, words
            names, words = begin[1], begin[2]
        elif line.startswith("        "):
            words += " " + line.strip()
    if names:
        yield names, words


def moment(text: str, now: float) -> float:
    """Parse a time; returns seconds since the epoch.

    Args:
        text: a duration before now (`30s`, `1h30m`, `2d`), a time of day (`12:34`: its last occurrence) or an
            ISO 8601 time (`2026-11-25T12:34`). Times without a time zone are local.
        now: the current time, in seconds since the epoch.

    Raises:
        ValueError: the text is none of these.
    """
    text = text.strip()
    if re.fullmatch(rf"(?:{_AGO.pattern} ?)+", text):
        return now - sum(float(number) * _UNITS[unit] for number, unit in _AGO.findall(text))
    if _CLOCK.fullmatch(text):
        clock = datetime.strptime(text, "%H:%M:%S" if text.count(":") > 1 else "%H:%M").time()
        today = datetime.fromtimestamp(now)
        last = datetime.combine(today, clock)
        return (last if last <= today else last - timedelta(days=1)).timestamp()
    return datetime.fromisoformat(text).timestamp()


def iso(at: float) -> str:
    """A time in seconds since the epoch, as `2026-11-25T12:34:56.123456Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
