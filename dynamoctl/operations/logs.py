"""Read and follow the logs of a deployment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from dynamoctl.errors import SpecError
from dynamoctl.planner.secrets import redact
from dynamoctl.state import Folder
from dynamoctl.words import nearest

_POLL_S = 0.3


def units(name: str) -> list[str]:
    """The units of a deployment that have a log."""
    folder = Folder(name)
    if not folder.exists():
        return []
    return sorted(log.stem for log in folder.log("supervisor").parent.glob("*.log"))


def read(name: str, unit: str | None, lines: int, follow: bool) -> Iterator[tuple[str, str]]:
    """The last lines of one unit's log, or of all, as (unit, line); with `follow` without an end.

    Args:
        lines: how many of each log; 0 for all.

    Raises:
        SpecError: no such deployment, or no such unit.
    """
    known = units(name)
    if not known:
        raise SpecError(f"'{name}' has no logs: it was never started here", "see: dynamoctl status --all")
    if unit is not None and unit not in known:
        raise SpecError(f"'{name}' has no unit '{unit}'", nearest(unit, known))
    folder = Folder(name)
    chosen = [unit] if unit else known
    tails = {each: _Tail(folder.log(each)) for each in chosen}
    for each, tail in tails.items():
        for line in tail.last(lines):
            yield each, redact(line)
    while follow:
        if unit is None:
            for each in units(name):
                tails.setdefault(each, _Tail(folder.log(each)))
        quiet = True
        for each, tail in tails.items():
            for line in tail.more():
                quiet = False
                yield each, redact(line)
        if quiet:
            time.sleep(_POLL_S)


class _Tail:
    """One log from where it was read last; a new start's log is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode = 0

    def last(self, count: int) -> list[str]:
        lines = list(self.more())
        return lines[-count:] if count else lines

    def more(self) -> Iterator[str]:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._at:
                    self._inode, self._at = found.st_ino, 0
                file.seek(self._at)
                text = file.read()
        except OSError:
            return
        end = text.rfind(b"\n") + 1
        self._at += end
        for raw in text[:end].splitlines():
            yield raw.decode(errors="replace")
