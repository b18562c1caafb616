"""Python in a process of its own, for what changes the process that it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile


def last_line(script: str, **environ: str) -> str:
    """The last line that a script prints; it must end with 0."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short name: vLLM has sockets there
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "TMPDIR": folder, **environ},
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
    return done.stdout.splitlines()[-1]
