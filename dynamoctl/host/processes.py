"""Processes by identity, read only.

A pid does not identify a process, because the kernel reuses pids. A process is identified by its pid, its
start time in clock ticks since boot, and the id of the boot (proc(5): /proc/PID/stat field 22,
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

# Variable in the environment of every process of a unit; its value is START-ID/UNIT.
MARK = "DYNAMOCTL_UNIT"
_TCP_LISTEN = "0A"  # include/net/tcp_states.h
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the flags of /proc/PID/stat: such a task has no environment
_READS_OF_ENVIRONMENT = 4  # a millisecond apart


@dataclass(frozen=True)
class Identity:
    """The unique identity of a process.

    Attributes:
        start_ticks: start time, in clock ticks since boot.
    """

    pid: int
    start_ticks: int
    boot_id: str


@cache
def boot_id() -> str:
    """The id of the current boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return []
    # The second field, the name in parentheses, may hold spaces, parentheses and any other character.
    return line.rpartition(b")")[2].decode("ascii").split()


def identify(pid: int) -> Identity | None:
    """The identity of the process that has this pid now; None if there is none."""
    stat = _stat(pid)
    return Identity(pid, int(stat[19]), boot_id()) if stat else None


def is_running(identity: Identity) -> bool:
    """Whether this process lives. A zombie does not."""
    stat = _stat(identity.pid)
    return (
        bool(stat)
        and stat[0] not in "ZX"
        and int(stat[19]) == identity.start_ticks
        and identity.boot_id == boot_id()
    )


def age_s(identity: Identity) -> float:
    """Age of a process of the current boot, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - identity.start_ticks / os.sysconf("SC_CLK_TCK")


def all_pids() -> Iterator[int]:
    """Every pid in this pid namespace."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def environment_of(pid: int, name: str) -> str | None:
    """A variable in a process's environment; None if it is unset or this user may not read it."""
    try:
        block = _environment(pid)
    except OSError:
        return None
    prefix = f"{name}=".encode()
    for entry in block.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode(errors="replace")
    return None


def _environment(pid: int) -> bytes:
    """What stands in /proc/PID/environ.

    It is empty for a moment while a process starts another program: execve(2) closes files, by which a
    parent learns of it, before it sets the new environment up. So an empty one is read again.

    Raises:
        OSError: there is no such process, or this user may not read it.
    """
    path = Path(f"/proc/{pid}/environ")
    for _ in range(_READS_OF_ENVIRONMENT - 1):
        if block := path.read_bytes():
            return block
        time.sleep(0.001)
    return path.read_bytes()


def members(mark: str, leader: Identity | None = None) -> list[Identity]:
    """The living processes of a unit, or of all units of a start if `mark` is `START-ID/`.

    A process belongs to a unit if it has the mark in its environment, or is in the session of the unit's
    leader (a process that cleared its environment).
    """
    return members_of_each({mark: leader})[mark]


def members_of_each(units: Mapping[str, Identity | None]) -> dict[str, list[Identity]]:
    """As `members`, for many units with one scan of the host's processes.

    Args:
        units: mark -> leader.

    Returns:
        Mark -> processes, in the order of `units`.
    """
    by_mark: dict[str, list[Identity]] = {mark: [] for mark in units}
    leaders = {mark: leader for mark, leader in units.items() if leader and leader.boot_id == boot_id()}
    sessions = {leader.pid: (mark, leader) for mark, leader in leaders.items()}
    for pid in all_pids():
        stat = _stat(pid)
        if not stat or stat[0] in "ZX" or int(stat[6]) & _KERNEL_THREAD:
            continue
        own = Identity(pid, int(stat[19]), boot_id())
        mark, leader = sessions.get(int(stat[3]), ("", own))
        if not mark or own.start_ticks < leader.start_ticks:
            carried = environment_of(pid, MARK) or ""
            mark = carried if carried in by_mark else f"{carried.partition('/')[0]}/"
        if mark in by_mark:
            by_mark[mark].append(own)
    return by_mark


def children(pid: int) -> list[int]:
    """The pids of a process's direct children, without zombies."""
    child_pids = []
    for other in all_pids():
        stat = _stat(other)
        if stat and int(stat[1]) == pid and stat[0] not in "ZX":
            child_pids.append(other)
    return child_pids


def resident_mib(pids: Iterable[int]) -> int:
    """Host memory of processes, in MiB: the private memory of each, and shared memory once.

    Shared memory counts as the largest share of one process. Mapped files (weights, libraries) belong to the
    page cache and are not counted (proc(5): RssAnon, RssShmem). Pages that forked processes share count for
    each: to know them (smaps_rollup) takes the kernel 0.1 s for each process, under a lock that it needs.
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
        OSError: it cannot be determined, because no file descriptor is left.
    """
    return port in listeners(identities)


def listeners(identities: Iterable[Identity]) -> dict[int, Identity]:
    """TCP port -> the first of these processes that listens on it, on any address.

    Raises:
        OSError: as `listens`.
    """
    by_port: dict[int, Identity] = {}
    ports = _listening_sockets()
    for identity in identities:
        try:
            inodes = _socket_inodes(identity.pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for inode in inodes & ports.keys():
            by_port.setdefault(ports[inode], identity)
    return by_port


def _listening_sockets() -> dict[str, int]:
    """Inode -> port of every listening TCP socket in this network namespace (proc_net_tcp(5))."""
    ports: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), open(table, encoding="ascii") as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if fields[3] == _TCP_LISTEN:
                    ports[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return ports


def command_line(pid: int) -> str:
    """A process's command line for people, at most 80 characters; its name if it has no command line."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        text = raw.strip() or Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return "gone"
    return text if len(text) <= 80 else text[:77] + "..."


def is_resource_tracker(pid: int) -> bool:
    """Whether a process is a resource tracker of Python's multiprocessing or of loky.

    A resource tracker removes named semaphores and shared memory when its processes are gone, and then exits.
    """
    try:
        return b"resource_tracker import main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def files_of(pids: Iterable[int]) -> dict[str, FileIdentity]:
    """The files that these processes leave behind if they are killed: shared memory, sockets, metrics.

    These are files under /dev/shm that they have mapped, the paths of Unix sockets that they have bound, and
    the temporary folder that a Dynamo worker makes for its metrics and passes to its engine's processes
    (if `processes.worker` runs it, that is in the unit's own folder).

    Returns:
        Path -> identity.
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
    return {path: identity for path in sorted(paths) if (identity := identify_file(path)) is not None}


def _mapped(maps: str) -> set[str]:
    """The paths under /dev/shm in the text of /proc/PID/maps.

    The C library makes a named semaphore under a temporary name, maps it, and then renames it (glibc,
    sem_open). In the maps it is "(deleted)", and only its inode identifies it.
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
    """The device number of /dev/shm, as /proc/PID/maps writes it."""
    device = SHARED_MEMORY.stat().st_dev
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def memory_changed_ns() -> int:
    """When shared memory was last made or removed, in ns since the epoch; 0 without /dev/shm.

    It takes some microseconds.
    """
    return SHARED_MEMORY.stat().st_mtime_ns if SHARED_MEMORY.exists() else 0


class NewMemory:
    """Tells when it is time to look for new shared memory with `files_of`.

    That is when any process of this host has made some, and once more, because it is mapped a moment later.
    """

    def __init__(self) -> None:
        self._changed_ns, self._again = memory_changed_ns(), False

    def is_there(self) -> bool:
        """Whether to look now. It takes some microseconds."""
        before, self._changed_ns = self._changed_ns, memory_changed_ns()
        has_changed = self._changed_ns != before
        to_look, self._again = has_changed or self._again, has_changed
        return to_look


def traces_of_files() -> tuple[int, frozenset[str]]:
    """A value that changes when a process of this host makes shared memory or binds a Unix socket.

    Much cheaper than `files_of` for all processes.
    """
    return (memory_changed_ns(), frozenset(_bound_sockets()))


def require_descriptors(count: int) -> None:
    """Check that this process can open `count` more files.

    Raises:
        OSError: it cannot.
    """
    with ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _bound_sockets() -> dict[str, str]:
    """Inode -> path of every Unix socket in this network namespace that has a path (proc_net_unix(5))."""
    paths = {}
    try:
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/"):
            paths[fields[6]] = fields[7]
    return paths


def _socket_inodes(pid: int) -> set[str]:
    """The inodes of a process's open sockets.

    Raises:
        OSError: the process has ended, or this user may not read its descriptors.
    """
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed in the meantime
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    return inodes


def works_in(pid: int, folder: Path) -> bool:
    """Whether a process's working directory is this folder or inside it."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(folder)
    except OSError:
        return False


def started_as(arguments: Sequence[str]) -> list[Identity]:
    """The living processes whose command line ends with these arguments."""
    tail = b"".join(os.fsencode(word) + b"\0" for word in arguments)
    matches = []
    for pid in all_pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if not line.endswith(b"\0" + tail):
            continue
        if (identity := identify(pid)) is not None and is_running(identity):
            matches.append(identity)
    return matches
