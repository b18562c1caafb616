"""Processes by identity, read only.

A pid alone names nobody: it is used again. A process is known by its pid, its start time in clock
ticks since boot, and the boot it belongs to (proc(5): /proc/PID/stat field 22,
/proc/sys/kernel/random/boot_id).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dynamoctl.host.files import SHARED_MEMORY, FileIdentity, identify_file, in_shared_memory

# In the environment of every process of a unit: DEPLOYMENT-START-ID/UNIT.
MARK = "DYNAMOCTL_UNIT"
_TCP_LISTEN = "0A"  # include/net/tcp_states.h
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the flags of proc(5): it has no environment


@dataclass(frozen=True)
class Identity:
    """One process, once and for all."""

    pid: int
    start_ticks: int
    boot_id: str


@cache
def boot_id() -> str:
    """This boot's id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return []
    # The second field, the name, may hold spaces, parentheses and anything else.
    return line.rpartition(b")")[2].decode("ascii").split()


def identify(pid: int) -> Identity | None:
    """The identity of the process that has this pid now; None where there is none."""
    stat = _stat(pid)
    return Identity(pid, int(stat[19]), boot_id()) if stat else None


def is_running(identity: Identity) -> bool:
    """Whether this very process lives. A zombie does not."""
    stat = _stat(identity.pid)
    return (
        bool(stat)
        and stat[0] not in "ZX"
        and int(stat[19]) == identity.start_ticks
        and identity.boot_id == boot_id()
    )


def age_s(identity: Identity) -> float:
    """For how long a process of this boot has been there, seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - identity.start_ticks / os.sysconf("SC_CLK_TCK")


def all_pids() -> Iterator[int]:
    """Every pid in this pid namespace."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def environment_of(pid: int, name: str) -> str | None:
    """One variable of a process's environment; None where it is unset or not ours to read."""
    try:
        block = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = f"{name}=".encode()
    for entry in block.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode(errors="replace")
    return None


def members(mark: str, leader: Identity | None = None) -> list[Identity]:
    """The living processes of a unit, or of a whole start where `mark` is `ID/`.

    A process belongs if it carries the mark in its environment, or is in the session that the
    unit's leader made (one that wiped its environment).
    """
    return members_of_each({mark: leader})[mark]


def members_of_each(units: Mapping[str, Identity | None]) -> dict[str, list[Identity]]:
    """The same of many units, with one look at all processes of the host.

    Args:
        units: mark -> leader.
    """
    found: dict[str, list[Identity]] = {mark: [] for mark in units}
    sessions = {one.pid: (mark, one) for mark, one in units.items() if one and one.boot_id == boot_id()}
    for pid in all_pids():
        stat = _stat(pid)
        if not stat or stat[0] in "ZX" or int(stat[6]) & _KERNEL_THREAD:
            continue
        own = Identity(pid, int(stat[19]), boot_id())
        mark, leader = sessions.get(int(stat[3]), ("", own))
        if not mark or own.start_ticks < leader.start_ticks:
            carried = environment_of(pid, MARK) or ""
            mark = carried if carried in found else f"{carried.partition('/')[0]}/"
        if mark in found:
            found[mark].append(own)
    return found


def children(pid: int) -> list[int]:
    """The direct children of a process, zombies left out."""
    found = []
    for other in all_pids():
        stat = _stat(other)
        if stat and int(stat[1]) == pid and stat[0] not in "ZX":
            found.append(other)
    return found


def resident_mib(pids: Iterable[int]) -> int:
    """The host's memory that processes hold, MiB: what is private to each, and once what they share.

    Files that they have mapped (weights, libraries) are the page cache's and are not counted
    (proc(5): RssAnon, RssShmem).
    """
    private, shared = 0, 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
        private += kib.get("RssAnon", 0)
        shared = max(shared, kib.get("RssShmem", 0))
    return (private + shared) // 1024


def listens(port: int, identities: Iterable[Identity]) -> bool:
    """Whether one of these processes listens on this TCP port.

    Raises:
        OSError: it cannot be found out: there is no descriptor left.
    """
    return port in listeners(identities)


def listeners(identities: Iterable[Identity]) -> dict[int, Identity]:
    """TCP port -> the first of these processes that listens on it, whatever the address.

    Raises:
        OSError: as `listens`.
    """
    found: dict[int, Identity] = {}
    ports = _listening_sockets()
    for one in identities:
        try:
            inodes = _socket_inodes(one.pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for inode in inodes & ports.keys():
            found.setdefault(ports[inode], one)
    return found


def _listening_sockets() -> dict[str, int]:
    """Inode -> port of every TCP socket that listens (proc_net_tcp(5)), in this network namespace."""
    found: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), open(table, encoding="ascii") as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if fields[3] == _TCP_LISTEN:
                    found[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return found


def command_line(pid: int) -> str:
    """A process's command line for people, at most 80 characters; its name where it has none."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        text = raw.strip() or Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return "gone"
    return text if len(text) <= 80 else text[:77] + "..."


def is_resource_tracker(pid: int) -> bool:
    """Whether it is the helper of Python's multiprocessing (or of loky) that removes named semaphores and
    shared memory once its own processes are gone, and then ends.
    """
    try:
        return b"resource_tracker import main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def files_of(pids: Iterable[int]) -> dict[str, FileIdentity]:
    """The files that outlive these processes if they are killed: shared memory, sockets, metrics.

    Files under /dev/shm that they have mapped, the paths of Unix sockets that they have bound, and the
    temporary folder that a worker of Dynamo's makes for its metrics and hands on to its engine's processes.
    """
    paths: set[str] = set()
    bound = _bound_sockets()
    for pid in pids:
        metrics = Path(environment_of(pid, "PROMETHEUS_MULTIPROC_DIR") or "/")
        if metrics.parent == Path(tempfile.gettempdir()):
            paths.add(str(metrics))
        try:
            maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        paths |= _mapped(maps)
        if bound:
            with suppress(OSError):
                paths |= {bound[inode] for inode in _socket_inodes(pid) if inode in bound}
    return {path: which for path in sorted(paths) if (which := identify_file(path)) is not None}


def _mapped(maps: str) -> set[str]:
    """The paths of what /proc/PID/maps has of /dev/shm.

    The C library makes a named semaphore under another name, maps it, and gives it its own name then: in the
    maps it is "(deleted)", and its inode tells which it is (sem_open in glibc).
    """
    paths = set()
    names: dict[int, str] | None = None
    for line in maps.splitlines():
        if f"{SHARED_MEMORY}/" not in line:
            continue
        _, _, _, device, inode, path = line.split(maxsplit=5)
        if not path.startswith(f"{SHARED_MEMORY}/"):
            continue
        if not path.endswith(" (deleted)"):
            paths.add(path)
        elif device == _device_of_shared_memory():
            names = in_shared_memory() if names is None else names
            if int(inode) in names:
                paths.add(names[int(inode)])
    return paths


def _device_of_shared_memory() -> str:
    """As /proc/PID/maps writes it."""
    device = SHARED_MEMORY.stat().st_dev
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def memory_changed_ns() -> int:
    """When a process of this host last made or removed shared memory. It costs some microseconds."""
    return SHARED_MEMORY.stat().st_mtime_ns if SHARED_MEMORY.exists() else 0


def traces_of_files() -> tuple[int, frozenset[str]]:
    """What is another one once a process of this host has made shared memory or bound a socket.

    Much cheaper than `files_of` all processes.
    """
    return (memory_changed_ns(), frozenset(_bound_sockets()))


def require_descriptors(count: int) -> None:
    """Nothing if this process can open so many files more.

    Raises:
        OSError: it cannot.
    """
    with ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _bound_sockets() -> dict[str, str]:
    """Inode -> path of every Unix socket that has one (proc_net_unix(5)), in this network namespace."""
    found = {}
    try:
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/"):
            found[fields[6]] = fields[7]
    return found


def _socket_inodes(pid: int) -> set[str]:
    """Raises OSError where the process has ended, or is not ours to look into."""
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # it has just closed one
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    return inodes


def works_in(pid: int, folder: Path) -> bool:
    """Whether a process's working folder is this one or lies in it."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(folder)
    except OSError:
        return False


def started_as(arguments: Sequence[str]) -> list[Identity]:
    """The living processes whose command line ends with these arguments."""
    tail = b"".join(word.encode() + b"\0" for word in arguments)
    found = []
    for pid in all_pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if line.endswith(b"\0" + tail) and (one := identify(pid)) is not None and is_running(one):
            found.append(one)
    return found
