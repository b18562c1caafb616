"""A model's weights, on their way into the page cache while the engine's Python still imports."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

# Small enough to stop soon, large enough for any disk.
_CHUNK = 8 * 1024 * 1024


def read_ahead(files: Iterable[Path], stop: threading.Event) -> int:
    """Read these files and forget what was read: the page cache keeps it.

    Asking the kernel to do it (posix_fadvise, WILLNEED) is not enough: it reads one window of the
    disk's and leaves the rest.

    Returns:
        How many bytes were read. A file that cannot be read is left to the engine to report.
    """
    buffer = bytearray(_CHUNK)
    total = 0
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            at = 0
            while not stop.is_set():
                count = os.preadv(descriptor, [buffer], at)
                if not count:
                    break
                at += count
            total += at
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return total
