"""A host of its own for each process of pytest-xdist: no test sees what another one brings up.

That is its loopback, so that no port is taken by somebody else, and its shared memory, so that what a test
has left there is its own. Only root can have that; where it cannot be had, deployments come one at a time.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from multiprocessing import util
from pathlib import Path

import pytest

# <linux/sched.h> and <linux/mount.h>
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def make() -> None:
    """Take this thread, and what it starts, out of the machine's network and shared memory.

    Raises:
        OSError: this user or this machine may not.
    """
    _call("unshare", _CLONE_NEWNS | _CLONE_NEWNET)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    _call("mount", b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"mode=1777")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)
    # A short name: there are sockets in it.
    folder = tempfile.mkdtemp(prefix="dynamoctl-", dir="/tmp")
    Path(folder).chmod(0o755)  # tests see what another user may do there
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    # After multiprocessing's own folder in it.
    util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)


def can_be_made() -> bool:
    """Tried in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            make()
            Path(os.environ["TMPDIR"]).rmdir()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def is_worker(config: pytest.Config) -> bool:
    """Whether this is a process that pytest-xdist has started."""
    return hasattr(config, "workerinput")
