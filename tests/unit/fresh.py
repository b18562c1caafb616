"""Python in a process of its own, for what changes the process that it runs in."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


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


# Importing vLLM takes seconds: once for all scripts that need it, and none of them sees another's changes.
_WITH_VLLM = multiprocessing.get_context("forkserver")
_WITH_VLLM.set_forkserver_preload(
    ["vllm.v1.engine.core_client", "vllm.distributed.device_communicators.shm_broadcast"]
)


def last_line_with_vllm(script: str, **environ: str) -> str:
    """The same, where vLLM has been imported; NIXL and LMCache have not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        out = Path(folder) / "out"
        child = _WITH_VLLM.Process(target=_run, args=(script, {**environ, "TMPDIR": folder}, out))
        child.start()
        child.join(200)
        printed = out.read_text(errors="replace")
        assert child.exitcode == 0, f"{child.exitcode}: {printed}"
        child.close()
    return printed.splitlines()[-1]


def _run(script: str, environ: dict[str, str], out: Path) -> None:
    os.environ.update(environ)
    tempfile.tempdir = None
    with out.open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        exec(script, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        raise
    finally:
        sys.stdout.flush()
