"""Read a model's weights into the page cache while the engine's Python still imports."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

# Bytes per read: small enough to stop quickly, large enough for any disk.
_CHUNK = 8 * 1024 * 1024


def read_ahead(files: Iterable[Path], stop: threading.Event) -> int:
    """Read these files and drop the data: the page cache keeps it.

    posix_fadvise(POSIX_FADV_WILLNEED) is not enough: the kernel reads only one read-ahead window.

    Args:
        stop: ends the reading when it is set.

    Returns:
        Bytes read. A file that cannot be read is skipped: the engine reports it.
    """
    buffer = bytearray(_CHUNK)
    total = 0
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            offset = 0
            while not stop.is_set():
                count = os.preadv(descriptor, [buffer], offset)
                if not count:
                    break
                offset += count
            total += offset
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return total
