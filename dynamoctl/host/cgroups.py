"""The memory that this process's control groups leave it: a container's limit, or a systemd slice's.

Every group from the process's own up to the root counts, because the kernel enforces each group's limit on
all groups below it. Sources: Linux's admin-guide/cgroup-v2.rst (memory.max, memory.current, memory.stat)
and admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# Without a limit, version 1 reports the largest multiple of the page size that fits 63 bits.
_UNLIMITED = 2**62


@dataclass(frozen=True)
class CgroupMemory:
    """What limited groups allow, in bytes.

    Attributes:
        limit: the smallest limit.
        available: the least that any of them leaves: its limit without what is used, file cache that can be
            reclaimed not counted as used. Not below 0.
    """

    limit: int
    available: int


@dataclass(frozen=True)
class _Files:
    """A version's names: of the limit, of what is used, and of reclaimable file cache in memory.stat."""

    limit: str
    used: str
    cache: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def memory(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> CgroupMemory | None:
    """What the groups of this process allow; None if none of them has a limit that can be read.

    Args:
        mount: where the groups are mounted; version 1's memory controller is in `memory` below it.
        membership: the groups of the process, as /proc/PID/cgroup.
    """
    limited = [
        CgroupMemory(limit, max(0, limit - _used(group, files)))
        for group, files in _groups(mount, membership)
        if (limit := _number(group / files.limit)) is not None and limit < _UNLIMITED
    ]
    if not limited:
        return None
    return CgroupMemory(min(one.limit for one in limited), min(one.available for one in limited))


def _groups(mount: Path, membership: Path) -> Iterator[tuple[Path, _Files]]:
    """The memory groups of the process, each with its ancestors; some may not exist.

    A container may see its own group mounted as the root, and its path as on the host: the root counts then.
    """
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not path.startswith("/") or ".." in PurePosixPath(path).parts:
            path = "/"  # outside of what is mounted here
        group = PurePosixPath(path.lstrip("/"))
        if not controllers:
            root, files = mount, _V2
        elif "memory" in controllers.split(","):
            root, files = mount / "memory", _V1
        else:
            continue
        for ancestor in (group, *group.parents):
            yield root / ancestor, files


def _used(group: Path, files: _Files) -> int:
    """Bytes that cannot be reclaimed; 0 if that cannot be read."""
    used = _number(group / files.used)
    if used is None:
        return 0
    cache = 0
    with suppress(OSError, ValueError):
        statistics = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        cache = int(statistics.get(files.cache, 0))
    return max(0, used - cache)


def _number(file: Path) -> int | None:
    """A file that holds one number; None if it is `max` or cannot be read."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() else None
