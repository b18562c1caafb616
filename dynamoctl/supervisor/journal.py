"""The supervisor's own log: what was started, stopped and restarted, and why. `dynamoctl logs supervisor`."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Literal

from dynamoctl.humanize import iso


def say(text: str, level: Literal["INFO", "WARN", "ERROR"] = "INFO") -> None:
    """In the form of Dynamo's lines, unless the disk is full."""
    with contextlib.suppress(OSError):
        print(f"{iso(time.time())} {level:>5} {text}", file=sys.stderr, flush=True)
