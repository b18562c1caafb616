"""Files by identity, read only.

A path does not identify a file for long: after the file is removed, or the machine restarted, another program
may make a file of the same name. A file is identified by its path, its inode and its time of birth
(statx(2): stx_btime).
"""

from __future__ import annotations

import os
import struct
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (POSIX shared memory; this module makes nothing in it)

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW = -100, 0x100  # fcntl.h
_STATX_INO, _STATX_BTIME = 0x100, 0x800  # linux/stat.h
_SIZE = 256  # bytes of struct statx
_INODE_AT, _BORN_AT = 32, 80  # offsets of stx_ino and stx_btime


@dataclass(frozen=True)
class FileIdentity:
    """The identity of a file, without its path.

    Attributes:
        born_ns: time of birth, in nanoseconds since the epoch; 0 if the file system does not record it.
    """

    inode: int
    born_ns: int


# Path -> identity; None if it is not known, or if the name alone identifies the file.
Files: TypeAlias = dict[str, FileIdentity | None]


@cache
def _statx() -> Any:
    """The C library's `statx`; None if it has none (glibc before 2.28)."""
    import ctypes

    return getattr(ctypes.CDLL(None), "statx", None)


def identify_file(path: str) -> FileIdentity | None:
    """The identity of the file at this path; None if there is no file. Symbolic links are not followed."""
    try:
        inode = os.lstat(path).st_ino
    except OSError:
        return None
    if _statx() is None:
        return FileIdentity(inode, 0)
    buffer = bytearray(_SIZE)
    flags, wanted = _AT_SYMLINK_NOFOLLOW, _STATX_INO | _STATX_BTIME
    import ctypes

    c_buffer = (ctypes.c_char * _SIZE).from_buffer(buffer)
    if _statx()(_AT_FDCWD, os.fsencode(path), flags, wanted, c_buffer) != 0:
        return FileIdentity(inode, 0) if os.path.lexists(path) else None
    (mask,) = struct.unpack_from("=I", buffer)
    (inode,) = struct.unpack_from("=Q", buffer, _INODE_AT)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BORN_AT)
    return FileIdentity(inode, seconds * 10**9 + nanoseconds if mask & _STATX_BTIME else 0)


def is_there(path: str, identity: FileIdentity | None) -> bool:
    """Whether this file still exists at its path; without an identity, whether any file does."""
    now = identify_file(path)
    return now is not None and identity in (None, now)


def files_as_json(files: Files) -> dict[str, Any]:
    """Files in a form for JSON."""
    return {path: identity and asdict(identity) for path, identity in files.items()}


def files_from_json(body: dict[str, Any]) -> Files:
    """Files from the form that `files_as_json` returns.

    Raises:
        TypeError: `body` does not have that form.
    """
    return {path: identity and FileIdentity(**identity) for path, identity in body.items()}


def in_shared_memory() -> dict[int, str]:
    """Inode -> path of each entry in /dev/shm."""
    try:
        with os.scandir(SHARED_MEMORY) as entries:
            return {entry.inode(): entry.path for entry in entries}
    except OSError:
        return {}
