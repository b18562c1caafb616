"""Directories for what engines write outside of a deployment's folder."""

from __future__ import annotations

import getpass
import os
import tempfile

# Longest path of the temporary directory that leaves room for vLLM's socket names, in characters.
_LONGEST = 10
_SHORT = "/tmp"  # noqa: S108  (`mkdtemp` makes a directory of our own in it)


def make() -> str:
    """Make a directory for a deployment's sockets and temporary files; empty if none can be made.

    It is in /tmp if the path of the temporary directory is too long: a socket's path has at most 107 bytes
    (unix(7)), and in-process LMCache uses names of 80 bytes in it.
    """
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST:
        parent = _SHORT
    try:
        return tempfile.mkdtemp(prefix="dctl-", dir=parent)
    except OSError:
        return ""


def compiled() -> str:
    """Where PyTorch keeps compiled code without a TMPDIR of ours, so that later starts find it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user has no name, as in some containers
        user = str(os.geteuid())
    return f"{tempfile.gettempdir()}/torchinductor_{user}"
