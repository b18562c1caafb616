"""Files by identity, read only.

A path alone is no file for good: once it is removed, or the machine has started again, another program may
make one of that name. A file is known by its path, its inode, and the moment at which it was made (statx(2):
stx_btime).
"""

from __future__ import annotations

import os
import struct
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (POSIX's; nothing is made here)

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW = -100, 0x100  # fcntl.h
_STATX_INO, _STATX_BTIME = 0x100, 0x800  # linux/stat.h
_SIZE = 256  # of struct statx
_INODE_AT, _BORN_AT = 32, 80


@dataclass(frozen=True)
class FileIdentity:
    """One file, whatever it is called.

    Attributes:
        born_ns: when it was made, nanoseconds since the epoch; 0 where the file system does not say.
    """

    inode: int
    born_ns: int


# Path -> which file that is; None where nobody has looked, or where the name alone is proof.
Files: TypeAlias = dict[str, FileIdentity | None]


@cache
def _statx() -> Any:
    """The C library's; None where it has none (glibc before 2.28)."""
    import ctypes

    return getattr(ctypes.CDLL(None), "statx", None)


def identify_file(path: str) -> FileIdentity | None:
    """The file that has this path now; None where there is none. A symbolic link is itself."""
    try:
        inode = os.lstat(path).st_ino
    except OSError:
        return None
    if _statx() is None:
        return FileIdentity(inode, 0)
    found = bytearray(_SIZE)
    flags, wanted = _AT_SYMLINK_NOFOLLOW, _STATX_INO | _STATX_BTIME
    import ctypes

    into = (ctypes.c_char * _SIZE).from_buffer(found)
    if _statx()(_AT_FDCWD, os.fsencode(path), flags, wanted, into) != 0:
        return FileIdentity(inode, 0) if os.path.lexists(path) else None
    (has,) = struct.unpack_from("=I", found)
    (inode,) = struct.unpack_from("=Q", found, _INODE_AT)
    seconds, nanoseconds = struct.unpack_from("=qI", found, _BORN_AT)
    return FileIdentity(inode, seconds * 10**9 + nanoseconds if has & _STATX_BTIME else 0)


def is_there(path: str, identity: FileIdentity | None) -> bool:
    """Whether this very file is there; without an identity, whether there is one of this name."""
    now = identify_file(path)
    return now is not None and identity in (None, now)


def files_as_json(files: Files) -> dict[str, Any]:
    """For a JSON file."""
    return {path: which and asdict(which) for path, which in files.items()}


def files_from_json(body: dict[str, Any]) -> Files:
    """What `files_as_json` made.

    Raises:
        TypeError: it did not.
    """
    return {path: which and FileIdentity(**which) for path, which in body.items()}


def in_shared_memory() -> dict[int, str]:
    """Inode -> path of what lies in /dev/shm now."""
    try:
        with os.scandir(SHARED_MEMORY) as entries:
            return {entry.inode(): entry.path for entry in entries}
    except OSError:
        return {}
