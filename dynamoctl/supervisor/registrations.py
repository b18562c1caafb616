"""Keep Dynamo's file discovery correct: living processes stay registered, dead ones do not.

A registration is a file in the deployment's discovery directory. Its process updates the file's mtime every
3.3 s, and any process removes a file whose mtime is more than 10 s old (Dynamo 1.4). A process that is frozen
or starved for longer does not register again when it resumes: it lives but gets no requests. A dead process
stays listed for those 10 s, and each request sent to it fails. So the supervisor, which knows the living
processes, touches their files, puts back files that were removed, and removes the files of dead processes at
once. It withholds the files of a worker that lives but does not answer; the worker does not write them
again, either.

The supervisor can be starved as well, so it sets an mtime in the future. If it has touched a file within
the last 10 s and the file is gone, its process may have removed it on a graceful exit, and the file is not
put back. If more than 10 s have passed, or a clock jumped, the file has expired and is put back at once.
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

# Dynamo's expiry (1.4). A worker that exits gracefully removes its own files, and has exited by then.
PUT_BACK_S = 10.0
# How far in the future the mtime is: longer than the longest stall of a host that was seen (20 s). If the
# supervisor dies, a living unit resets the mtime with its own next touch.
AHEAD_S = 60.0
# Seconds of the monotonic clock and of the wall clock, by which Dynamo judges an mtime; either may jump.
_Clocks = tuple[float, float]
# Separates the parts of the key in a file's name; the last part is the id of an instance or a channel.
_SLASH = "%2F"


@dataclass
class _Registration:
    text: str
    owner: Identity
    touched: _Clocks


def _clocks() -> _Clocks:
    return time.monotonic(), time.time()


class Registrations:
    """The registrations of one deployment's units, and the processes that own them. Thread-safe.

    Args:
        store: the deployment's discovery directory.
        now: returns the current times of both clocks.
    """

    def __init__(self, store: Path, now: Callable[[], _Clocks] = _clocks) -> None:
        self._store = store
        self._now = now
        self._known: dict[Path, _Registration] = {}
        self._changes: dict[Path, tuple[int, int]] = {}
        self._withheld: set[Identity] = set()
        self._all_read = False
        self._lock = threading.Lock()

    def keep(self, living: Callable[[], Iterable[Identity]]) -> bool:
        """Touch, put back, withhold and remove files as needed. To be called every few seconds.

        Args:
            living: returns the units' living processes; called only if there is a new registration.

        Returns:
            Whether a directory had to be made again: a frontend that watches the old one sees no changes.
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
        """Remove at once the registrations that belong to none of these processes."""
        identities = list(living)
        with self._lock:
            self._learn(lambda: identities)
            for path, known in list(self._known.items()):
                if known.owner not in identities or not is_running(known.owner):
                    self._forget(path)
            # Registrations whose process died before its ownership was known.
            bodies = {path: body for path in self._files() if (body := _parse(_text(path))) is not None}
            ports = {_id(path): port for path, body in bodies.items() if (port := _port(body)) is not None}
            owner_by_port = listeners(identities)
            dead = {name for name, port in ports.items() if port not in owner_by_port}
            for path in bodies:
                if path not in self._known and _id(path) in dead:
                    path.unlink(missing_ok=True)

    def withhold(self, owners: Iterable[Identity]) -> None:
        """Remove the registrations of these living processes until `hand_back`."""
        with self._lock:
            self._withheld = {owner for owner in self._withheld if is_running(owner)} | set(owners)
            for path in self._paths_of(self._withheld):
                _remove(path)

    def hand_back(self, owners: Iterable[Identity]) -> None:
        """Put back the withheld registrations of these processes."""
        with self._lock:
            own = self._withheld.intersection(owners)
            self._withheld -= own
            for path in self._paths_of(own):
                self._known[path].touched = self._now()
                self._put_back(path, self._known[path].text)

    def has_any(self, owners: Iterable[Identity]) -> bool:
        """Whether the discovery directory holds an instance that these processes registered."""
        with self._lock:
            return any(path.exists() for path in self._instances_of(owners))

    def has_never_seen(self, owners: Iterable[Identity]) -> bool:
        """Whether no instance of these processes was ever seen, so that none can be put back.

        False if the discovery directory holds a file whose owner is not known.
        """
        with self._lock:
            return self._all_read and not self._instances_of(owners)

    def texts(self, kind: str) -> list[str]:
        """The registrations of a kind: `instances`, or `mdc` (model cards)."""
        return [_text(path) for path in sorted(self._store.glob(f"v1/{kind}/*"))]

    def _instances_of(self, owners: Iterable[Identity]) -> list[Path]:
        return [path for path in self._paths_of(owners) if path.parent.name == "instances"]

    def _paths_of(self, owners: Iterable[Identity]) -> list[Path]:
        identities = set(owners)
        return [path for path, known in self._known.items() if known.owner in identities]

    def _files(self) -> list[Path]:
        return sorted(self._store.glob("v1/*/*"))

    def _learn(self, living: Callable[[], Iterable[Identity]]) -> None:
        """Read the files written since the last call, and find their owners."""
        before, self._changes = self._changes, self._look()
        if self._changes == before and self._all_read:
            return
        # Read once more after each change: this read may have come in the middle of one.
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
        owner_by_port = listeners(living())
        for path, (text, body) in new.items():
            port = _port(body)
            if port in owner_by_port:
                self._known[path] = _Registration(text, owner_by_port[port], self._now())
        # Other files, such as a model's card, name an instance and no port.
        owners = {_id(path): known.owner for path, known in self._known.items()}
        for path, (text, body) in new.items():
            owner = owners.get(_instance(path, body))
            if path not in self._known and owner is not None:
                self._known[path] = _Registration(text, owner, self._now())
        self._all_read &= new.keys() <= self._known.keys()

    def _look(self) -> dict[Path, tuple[int, int]]:
        """Directory -> (inode, mtime in ns); differs after a file was added, removed or written.

        Dynamo (1.4) writes a temporary file and renames it, which changes the directory's mtime. Touching a
        file does not.
        """
        store = self._store / "v1"
        changes = {}
        for folder in (store, *store.glob("*/")):
            with contextlib.suppress(OSError):
                status = folder.stat()
                changes[folder] = (status.st_ino, status.st_mtime_ns)
        return changes

    def _forget(self, path: Path) -> None:
        del self._known[path]
        _remove(path)

    def _put_back(self, path: Path, text: str) -> bool:
        """Write a registration atomically: Dynamo reads a file as soon as it exists.

        Returns:
            Whether its directory was missing.
        """
        missing = not path.parent.exists()
        # If that fails, on a full disk for example, the next round tries again.
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
    """Set a file's mtime to `AHEAD_S` in the future; False if the file does not exist."""
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
    """The file's text; empty if it cannot be read."""
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
    """The id of the instance to which a file without a port belongs."""
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
