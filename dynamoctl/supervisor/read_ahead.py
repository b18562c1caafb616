"""A model's weights, on their way into the page cache while the engine's Python still imports."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

# Small enough to stop soon, large enough for any disk.
_CHUNK = 64 * 1024 * 1024


def read_ahead(files: Iterable[Path], stop: threading.Event) -> int:
    """Ask the kernel to read these files; it does so on its own, and drops nothing that is in use.

    Returns:
        How many bytes were asked for. A file that cannot be opened is left to the engine to report.
    """
    asked = 0
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            size = os.fstat(descriptor).st_size
            for at in range(0, size, _CHUNK):
                if stop.is_set():
                    return asked
                # Blocks while the disk's queue is full, so the loop keeps the disk's own pace.
                os.posix_fadvise(descriptor, at, _CHUNK, os.POSIX_FADV_WILLNEED)
                asked += min(_CHUNK, size - at)
        finally:
            os.close(descriptor)
    return asked
