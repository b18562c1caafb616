"""The supervisor's log (`dynamoctl logs supervisor`): what was started, stopped and restarted, and why."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Literal

from dynamoctl.humanize import iso


def say(text: str, level: Literal["INFO", "WARN", "ERROR"] = "INFO") -> None:
    """Log a line in the format of Dynamo's log lines. On a full disk the line is dropped."""
    with contextlib.suppress(OSError):
        print(f"{iso(time.time())} {level:>5} {text}", file=sys.stderr, flush=True)
