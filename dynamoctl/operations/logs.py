"""Read and follow the logs of a deployment."""

from __future__ import annotations

import heapq
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter

from dynamoctl.errors import SpecError
from dynamoctl.humanize import moment, nearest
from dynamoctl.logs import fields
from dynamoctl.logs.tail import Tail
from dynamoctl.planner.secrets import redact
from dynamoctl.state import DeploymentDir, deployments

_POLL_S = 0.3
# Default number of lines of each log.
LINES = 40
# The times in a log are not quite in order: several processes write to it, some with whole seconds only.
_DISORDER_S = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log. A line without its own time or level takes those of the line before it.

    Attributes:
        unit: the unit that wrote the line.
        text: the line, without secrets.
        at: when it was written, in seconds since the epoch. Lines before the first one with a time take its
            time; if no line has a time, this is the file's mtime.
        level: level number of Python's logging, or None.
        word: begin and end of the level's word in the line without colours, or None.
    """

    unit: str
    text: str
    at: float
    level: int | None
    word: tuple[int, int] | None


@dataclass(frozen=True)
class Query:
    """Which lines are wanted.

    Attributes:
        lines: number of last lines of each log; 0 for all lines, including those of the start before; None
            for 40, or for all matching lines if another attribute is set.
        since: only lines written since then, in seconds since the epoch.
        pattern: only lines in which this matches.
        level: only lines of at least this level.
    """

    lines: int | None = None
    since: float | None = None
    pattern: re.Pattern[str] | None = None
    level: int | None = None

    @property
    def filters(self) -> bool:
        """Whether only some lines are wanted."""
        return (self.since, self.pattern, self.level) != (None, None, None)

    @property
    def last(self) -> int:
        """Largest number of lines of each log; 0 for all."""
        return self.lines if self.lines is not None else 0 if self.filters else LINES

    def wants(self, line: Line, live: bool) -> bool:
        """Whether a line is wanted. A live line counts as new, whatever time it has."""
        if self.level is not None and (line.level or fields.LEVELS["info"]) < self.level:
            return False
        if self.since is not None and not live and line.at < self.since:
            return False
        return self.pattern is None or self.pattern.search(fields.plain(line.text)) is not None


def query(
    lines: int | None, since: str | None, grep: str | None, ignore_case: bool, level: str | None
) -> Query:
    """The query of `logs`'s flags.

    Raises:
        SpecError: a time or a regular expression is invalid, or --ignore-case comes without --grep.
    """
    if ignore_case and grep is None:
        raise SpecError("--ignore-case only works with --grep", "add --grep REGEX")
    at = pattern = None
    if since is not None:
        try:
            at = moment(since, time.time())
        except (ValueError, OverflowError):
            raise SpecError(
                f"--since: '{since}' is not a time",
                "as in 30s, 10m, 2h, 1d, 12:34, 2026-11-25T12:34 or 2026-11-25T12:34:56Z",
            ) from None
    if grep is not None:
        try:
            pattern = re.compile(grep, re.IGNORECASE if ignore_case else 0)
        except re.error as error:
            where = f" at position {error.pos}" if error.pos is not None else ""
            mark = f"\n{' ' * error.pos}^" if error.pos is not None and "\n" not in grep else ""
            raise SpecError(f"--grep: {error.msg}{where}", f"{grep}{mark}") from None
    return Query(lines, at, pattern, fields.LEVELS[level] if level else None)


def units(name: str) -> list[str]:
    """The units of a deployment that have a log."""
    folder = DeploymentDir(name)
    if not folder.exists():
        return []
    return sorted(log.stem for log in folder.log("supervisor").parent.glob("*.log"))


def target(word: str | None, name: str | None) -> tuple[str, str | None]:
    """The deployment and the unit that a word means: `logs WORD`.

    It is a unit if the deployment has one of this name, and otherwise the deployment that it names.

    Args:
        word: what was given as the argument; None if nothing was.
        name: the deployment that was named with --name; None if none was.
    """
    by_default = "default" if name is None else name
    if word is None:
        return by_default, None
    if word not in units(by_default) and (word == name or (name is None and word in deployments())):
        return word, None
    return by_default, word


def read(name: str, unit: str | None, wanted: Query, follow: bool) -> Iterator[Line]:
    """The lines of one unit's log, or of all logs sorted by time; with `follow`, forever.

    Raises:
        SpecError: there is no such deployment or unit.
    """
    known = units(name)
    if not known:
        hint = "see: dynamoctl status --all"
        if name in units("default"):
            hint = f"'{name}' is a unit of 'default': give one unit, or none for all"
        raise SpecError(f"'{name}' has no logs: it was never started here", hint)
    if unit is not None and unit not in known:
        hint = nearest(unit, known)
        if unit in deployments():
            hint = f"to see the logs of the deployment '{unit}': dynamoctl logs {unit}"
        raise SpecError(f"'{name}' has no unit '{unit}'", hint)
    folder = DeploymentDir(name)
    logs = {each: _Log(folder, each, wanted) for each in ([unit] if unit else known)}
    try:
        for log in logs.values():
            log.begin()
        yield from _by_time([log.last(whole=not follow) for log in logs.values()])
        while follow:
            for each in units(name) if unit is None else ():
                if each not in logs:
                    logs[each] = _Log(folder, each, wanted)
                    logs[each].begin(new=True)
            quiet = True
            for line in _by_time([log.more() for log in logs.values()]):
                quiet = False
                yield line
            if quiet:
                time.sleep(_POLL_S)
    finally:
        for log in logs.values():
            log.close()


class _Log:
    """The wanted lines of one unit's log."""

    def __init__(self, folder: DeploymentDir, unit: str, wanted: Query) -> None:
        self._unit = unit
        self._wanted = wanted
        self._tail = Tail(folder.log(unit))
        self._carry = fields.Carry()
        self.close = self._tail.close

    def begin(self, new: bool = False) -> None:
        """Find the first line; that is the first of the log if the log is new."""
        if new:
            self._tail.begin()
            return
        wanted = self._wanted
        self._tail.begin(
            lines=0 if wanted.filters else wanted.last,
            older=wanted.lines == 0 or wanted.since is not None,
            is_before=self._is_before if wanted.since is not None else None,
        )

    def last(self, whole: bool) -> Iterable[Line]:
        """The wanted lines that exist now; with `whole`, also a last line without a line end."""
        lines = self._wanted_of(self._dated(self._all(whole)), live=False)
        return deque(lines, self._wanted.last) if self._wanted.last else lines

    def more(self) -> Iterator[Line]:
        """The wanted lines that were written since the last call."""
        return self._wanted_of(map(self._line, self._tail.more()), live=True)

    def _all(self, whole: bool) -> Iterator[Line]:
        yield from map(self._line, self._tail.more())
        if whole:
            yield from map(self._line, self._tail.end())

    def _line(self, raw: str) -> Line:
        text = redact(raw)
        own = self._carry.read(fields.plain(text), self._tail.latest)
        at = self._tail.latest if self._carry.at is None else self._carry.at
        return Line(self._unit, text, at, self._carry.level, own.word)

    def _dated(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The same lines; those before the first line with a time get its time."""
        first: list[Line] = []
        for line in lines:
            if self._carry.at is None:
                first.append(line)
                continue
            yield from (replace(early, at=line.at) for early in first)
            first.clear()
            yield line
        yield from first

    def _wanted_of(self, lines: Iterable[Line], live: bool) -> Iterator[Line]:
        return (line for line in lines if self._wanted.wants(line, live))

    def _is_before(self, raw: bytes) -> bool:
        assert self._wanted.since is not None
        at = fields.read(fields.plain(raw.decode(errors="replace")), time.time()).at
        return at is not None and at < self._wanted.since - _DISORDER_S


def _by_time(logs: Iterable[Iterable[Line]]) -> Iterator[Line]:
    """The lines of all logs sorted by time; the lines of one log keep their order."""
    for _, line in heapq.merge(*map(_timed, logs), key=itemgetter(0)):
        yield line


def _timed(lines: Iterable[Line]) -> Iterator[tuple[float, Line]]:
    """Each line with its time, or with that of the line before if that is later."""
    latest = 0.0
    for line in lines:
        latest = max(latest, line.at)
        yield latest, line
