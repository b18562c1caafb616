"""Locks that commands hold against each other."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamoctl.errors import DynamoctlError, PreflightError


@contextmanager
def locked(path: Path, patience_s: float, busy: str) -> Iterator[None]:
    """Hold a lock on a file, which is made if it does not exist.

    Raises:
        PreflightError: the file cannot be made.
        DynamoctlError: another process holds it for longer than `patience_s` seconds; `busy` is the message.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot_write_in(path.parent, error) from None
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise DynamoctlError(busy, "wait for it to end, then try again") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def cannot_write_in(folder: Path, error: OSError) -> PreflightError:
    """The error for a folder in which nothing can be made."""
    return PreflightError(
        f"cannot write in {folder}: {error.strerror}",
        "fix its permissions, or set DYNAMOCTL_HOME to a writable folder",
    )
