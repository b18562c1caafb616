"""All processes of a deployment are killed at the same moment."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from dynamoctl.host.processes import is_resource_tracker

from .conftest import Cli, wait_for


def kill_at_once(cli: Cli, name: str) -> list[int]:
    """Stop all of them first, so that none sees another go. Returns the resource trackers among them."""
    stopped: set[int] = set()
    while new := cli.ours(name).keys() - stopped:  # one may be about to start another
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= new
    trackers = [pid for pid in stopped if is_resource_tracker(pid)]
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: all(has_ended(pid) for pid in stopped), 60)
    return trackers


def has_ended(pid: int) -> bool:
    """Whether it has no memory and no open files any more; its parent may not have looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
