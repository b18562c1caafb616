"""Dynamo's file discovery, kept true: the living stay registered, the dead do not.

A registration is a file in the deployment's store. Its process sets the file's time to the present every
3.3 s, and anybody removes it where that is 10 s ago (Dynamo 1.4). A process that is frozen or starved for
that long does not register again when it goes on: it lives and serves nobody. A dead one stays listed for
those 10 s, and each request that is sent to it fails. So the supervisor, which knows who lives, sets the time
of the living's files, puts back what was removed all the same, and removes those of the dead at once. Those
of a worker that lives and does not answer it withholds: its process does not write them again, either.

The supervisor can be starved as well. So the time that it sets is ahead, and mostly it is the last that was
set. Where it has set none for 10 s, or where a clock jumped, a file that is not there has expired, and is put
back at once. Otherwise its process may have removed it, and leaves in peace.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamoctl.host.processes import Identity, is_running, listeners

# Dynamo's limit (1.4). A worker that leaves in peace removes its files itself, and has ended by then.
PUT_BACK_S = 10.0
# How far ahead: longer than a core of a host was seen to stand still (20 s). Where the supervisor has died, a
# living unit takes it back with its own next touch.
AHEAD_S = 60.0
# The time since the host's start, and that of the day, by which Dynamo judges a file's: either may jump.
_Clocks = tuple[float, float]
# In a file's name, between the parts of its key; the last part is the id of an instance or a channel.
_SLASH = "%2F"


@dataclass
class _Registration:
    text: str
    owner: Identity
    touched: _Clocks


def _clocks() -> _Clocks:
    return time.monotonic(), time.time()


class Registrations:
    """What the units of one deployment have registered, and who they are. Safe to use from threads."""

    def __init__(self, store: Path, now: Callable[[], _Clocks] = _clocks) -> None:
        self._store = store
        self._now = now
        self._known: dict[Path, _Registration] = {}
        self._changes: dict[Path, tuple[int, int]] = {}
        self._withheld: set[Identity] = set()
        self._all_read = False
        self._lock = threading.Lock()

    def keep(self, living: Callable[[], Iterable[Identity]]) -> bool:
        """One round, due every few seconds.

        Args:
            living: gives the units' living processes; asked only where somebody new has registered.

        Returns:
            Whether a folder had to be made anew: a frontend that watches it sees nothing of it any more.
        """
        made, now = False, self._now()
        with self._lock:
            self._learn(living)
            lives = {owner: is_running(owner) for owner in {known.owner for known in self._known.values()}}
            for path, known in list(self._known.items()):
                if not lives[known.owner]:
                    self._forget(path)
                elif known.owner in self._withheld:
                    _remove(path)
                elif _touch(path, now):
                    known.touched = now
                elif _has_expired(known, now):
                    made |= self._put_back(path, known.text)
        return made

    def forget_the_dead(self, living: Iterable[Identity]) -> None:
        """Remove at once what none of these has registered."""
        identities = list(living)
        with self._lock:
            self._learn(lambda: identities)
            for path, known in list(self._known.items()):
                if known.owner not in identities or not is_running(known.owner):
                    self._forget(path)
            # Whoever registered them has gone before it was known.
            bodies = {path: body for path in self._files() if (body := _parse(_text(path))) is not None}
            ports = {_id(path): port for path, body in bodies.items() if (port := _port(body)) is not None}
            there = listeners(identities)
            dead = {name for name, port in ports.items() if port not in there}
            for path in bodies:
                if path not in self._known and _id(path) in dead:
                    path.unlink(missing_ok=True)

    def withhold(self, owners: Iterable[Identity]) -> None:
        """Take out of discovery what these living processes have registered, until it is handed back."""
        with self._lock:
            self._withheld = {one for one in self._withheld if is_running(one)} | set(owners)
            for path in self._paths_of(self._withheld):
                _remove(path)

    def hand_back(self, owners: Iterable[Identity]) -> None:
        """Put back what was withheld of these."""
        with self._lock:
            own = self._withheld.intersection(owners)
            self._withheld -= own
            for path in self._paths_of(own):
                self._known[path].touched = self._now()
                self._put_back(path, self._known[path].text)

    def has_any(self, owners: Iterable[Identity]) -> bool:
        """Whether an instance that these processes have registered is in the store now."""
        with self._lock:
            return any(path.exists() for path in self._instances_of(owners))

    def has_never_seen(self, owners: Iterable[Identity]) -> bool:
        """Whether these processes have registered no instance that was ever seen: it cannot be put back.

        False where there is something in the store of which it is not known whose it is.
        """
        with self._lock:
            return self._all_read and not self._instances_of(owners)

    def _instances_of(self, owners: Iterable[Identity]) -> list[Path]:
        return [path for path in self._paths_of(owners) if path.parent.name == "instances"]

    def _paths_of(self, owners: Iterable[Identity]) -> list[Path]:
        identities = set(owners)
        return [path for path, known in self._known.items() if known.owner in identities]

    def _files(self) -> list[Path]:
        return sorted(self._store.glob("v1/*/*"))

    def _learn(self, living: Callable[[], Iterable[Identity]]) -> None:
        """Read what has been written since, and find out whose it is."""
        before, self._changes = self._changes, self._look()
        if self._changes == before and self._all_read:
            return
        # Another look after each change: this one may have come in the middle of it.
        self._all_read = self._changes == before
        new: dict[Path, tuple[str, dict[str, Any]]] = {}
        for path in self._files():
            text, known = _text(path), self._known.get(path)
            if known is not None and text == known.text:
                continue
            body = _parse(text)
            if body is None:
                self._all_read = False
                continue
            if known is not None:
                known.text = text
            else:
                new[path] = (text, body)
        if not new:
            return
        there = listeners(living())
        for path, (text, body) in new.items():
            port = _port(body)
            if port in there:
                self._known[path] = _Registration(text, there[port], self._now())
        # A model's card and the like name an instance, and no port.
        owners = {_id(path): known.owner for path, known in self._known.items()}
        for path, (text, body) in new.items():
            owner = owners.get(_instance(path, body))
            if path not in self._known and owner is not None:
                self._known[path] = _Registration(text, owner, self._now())
        self._all_read &= new.keys() <= self._known.keys()

    def _look(self) -> dict[Path, tuple[int, int]]:
        """What is another one once a file has come, gone or been written: Dynamo writes each beside its place
        and moves it there (1.4), and the folder's time tells of it. Touching a file does not show.
        """
        store = self._store / "v1"
        found = {}
        for folder in (store, *store.glob("*/")):
            with contextlib.suppress(OSError):
                seen = folder.stat()
                found[folder] = (seen.st_ino, seen.st_mtime_ns)
        return found

    def _forget(self, path: Path) -> None:
        del self._known[path]
        _remove(path)

    def _put_back(self, path: Path, text: str) -> bool:
        """Whole or not at all: Dynamo reads a file as soon as it is there. True where its folder was not."""
        missing = not path.parent.exists()
        # On a full disk, say, the next round tries again.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._store.parent / ".registration"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        return missing


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _touch(path: Path, now: _Clocks) -> bool:
    """Let it last; False where it is not there (any more)."""
    _, day = now
    ahead = day + AHEAD_S
    try:
        os.utime(path, (ahead, ahead))
    except OSError:
        return False
    return True


def _has_expired(known: _Registration, now: _Clocks) -> bool:
    return max(clock - touched for clock, touched in zip(now, known.touched, strict=True)) >= PUT_BACK_S


def _id(path: Path) -> str:
    return path.name.rpartition(_SLASH)[2]


def _text(path: Path) -> str:
    """Empty where it is not there (any more)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _parse(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _instance(path: Path, body: dict[str, Any]) -> str:
    """The id of the instance that a file without a port belongs to."""
    try:
        return format(int(body["metadata"]["worker"]["worker_id"]), "x")
    except (KeyError, TypeError, ValueError):
        return _id(path)


def _port(body: dict[str, Any]) -> int | None:
    """The port of an instance's `HOST:PORT/ID/ENDPOINT`, or of a channel's `tcp://HOST:PORT`."""
    try:
        transport = body["transport"]
        address = transport["tcp"] if "tcp" in transport else transport["config"]["endpoint"]
        return int(address.removeprefix("tcp://").partition("/")[0].rpartition(":")[2])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
