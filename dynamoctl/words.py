"""Words for people: the nearest known name, durations, counts, what a docstring says of its attributes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word; all of them where none is near and they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known are: " + ", ".join(names) if len(names) <= 20 else ""


def duration(seconds: float) -> str:
    """`7 s`, `2 min 5 s`, `3 h 12 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def attributes(kind: type) -> dict[str, str]:
    """The `Attributes:` of a class's docstring: name -> what it says. `a, b: words` is said of both."""
    import inspect

    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    return {
        name: words[0].upper() + words[1:] for names, words in _entries(section) for name in names.split(", ")
    }


def _entries(section: str) -> Iterator[tuple[str, str]]:
    import re

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
