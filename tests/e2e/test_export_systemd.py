"""The exported units under a real user manager of systemd, where no systemd was booted.

The manager sees a control group of its own as the root, and the folder by which it knows a booted systemd. It
would otherwise move every process of this machine's root group into one of its own: so it is not started
unless it can see nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Cli, chat, free_port, wait_for

pytestmark = [
    pytest.mark.mocker,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("model"),
]

MODEL = "smollm2-135m-instruct"
PROGRAM = Path("/lib/systemd/systemd")
GROUPS = Path("/sys/fs/cgroup")
# Where systemd has its groups -> how they are mounted: version 1 and 2 side by side, or version 2 alone.
HYBRID = {"systemd": "-t cgroup -o none,name=systemd", "unified": "-t cgroup2"}
UNIFIED = {".": "-t cgroup2"}

_SETUP = """
mount --make-rprivate /
mount -t tmpfs tmpfs {groups}
{mounts}
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0
chmod 700 /run/user/0
export XDG_RUNTIME_DIR=/run/user/0 SYSTEMD_LOG_TARGET=console
"""
_START = """
{program} --user >"$XDG_CONFIG_HOME/manager.log" 2>&1 &
manager=$!
for _ in $(seq 50); do
  state=$(systemctl --user is-system-running 2>/dev/null) && break
  sleep 0.2
done
"""


class Manager:
    """A shell beside the manager, that runs one command at a time."""

    def __init__(self, shell: subprocess.Popen[str]) -> None:
        self.shell = shell

    def __call__(self, command: str) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f'{command} 2>&1 </dev/null\necho "@end $?"\n')
        self.shell.stdin.flush()
        lines: list[str] = []
        for line in self.shell.stdout:
            if line.startswith("@end "):
                return int(line.split()[1]), "".join(lines)
            lines.append(line)
        raise AssertionError("".join(lines))

    def property(self, unit: str, name: str) -> str:
        return self(f"systemctl --user show --property {name} --value {unit}")[1].strip()

    def states(self, *units: str) -> set[str]:
        return {self.property(unit, "ActiveState") for unit in units}


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    """Control groups of our own, one in each tree; whoever is still in them afterwards is killed."""
    trees = HYBRID if (GROUPS / "unified").is_dir() else UNIFIED
    made = [GROUPS / tree / f"dynamoctl-test-{os.getpid()}" for tree in trees]
    try:
        for group in made:
            group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield made
    deadline = time.monotonic() + 30
    while any(group.exists() for group in made) and time.monotonic() < deadline:
        for group in made:
            for pid in members(group):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for folder in sorted(group.rglob("*/"), reverse=True) if group.exists() else ():
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()
        time.sleep(0.2)
    assert not [group for group in made if group.exists()]


def members(group: Path) -> set[int]:
    """Every process in a control group and below it."""
    files = [group / "cgroup.procs", *group.glob("**/cgroup.procs")]
    found = set()
    for file in files:
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in file.read_text().split()}
    return found


@pytest.fixture
def manager(tmp_path: Path, groups: list[Path]) -> Iterator[Manager]:
    if os.geteuid() != 0 or not PROGRAM.exists() or not shutil.which("unshare"):
        pytest.skip("a manager of one's own needs root, systemd and unshare")
    (tmp_path / "systemd" / "user").mkdir(parents=True)
    enter = "; ".join(f"echo $$ >{group}/cgroup.procs" for group in groups)
    shell = subprocess.Popen(
        ["bash", "-c", f"set -e; {enter}; exec unshare --cgroup --mount bash"],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    one = Manager(shell)
    try:
        trees = HYBRID if len(groups) > 1 else UNIFIED
        mounts = "\n".join(
            f"mkdir -p {GROUPS / tree} && mount {how} cgroup {GROUPS / tree}" for tree, how in trees.items()
        )
        assert shell.stdin is not None
        shell.stdin.write(_SETUP.format(groups=GROUPS, mounts=mounts))
        for tree in trees:
            code, said = one(f"mountpoint -q {GROUPS / tree} && cat {GROUPS / tree}/cgroup.procs")
            # The shell, and the `cat` that has looked.
            if code != 0 or str(shell.pid) not in said.split() or len(said.split()) > 2:
                pytest.skip(f"no control group of its own can be had for the manager: {said}")
        shell.stdin.write(_START.format(program=PROGRAM))
        code, said = one('test "$state" = running')
        if code != 0:
            pytest.skip(f"no manager can be run here: {said}{(tmp_path / 'manager.log').read_text()}")
        yield one
        one("kill -TERM $manager; wait $manager")
    finally:
        shell.kill()
        shell.wait(timeout=60)
        for stream in (shell.stdin, shell.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def test_it_serves_restarts_and_leaves_nothing(cli: Cli, manager: Manager, tmp_path: Path) -> None:
    port = free_port()
    made = cli(
        "export", "systemd", "disagg", "--engine", "mocker", "--port", str(port),
        "-o", str(tmp_path / "systemd" / "user"),
    )  # fmt: skip
    assert made.code == 0, made.err
    target, store = "dynamoctl-default.target", Path("dynamoctl-default/store")
    services = [f"dynamoctl-default-{name}.service" for name in ("frontend", "decode-0", "prefill-0")]
    frontend, decode, prefill = services

    assert manager("systemctl --user daemon-reload")[0] == 0
    code, said = manager(f"systemctl --user start {target}")
    assert code == 0, said
    # `start` has come back, so all are ready: each was started after the gate of the one before had passed.
    assert manager.states(target, *services) == {"active"}
    ready = [int(manager.property(unit, "ActiveEnterTimestampMonotonic")) for unit in services]
    begun = [int(manager.property(unit, "ExecMainStartTimestampMonotonic")) for unit in services]
    assert begun[0] < ready[0] <= begun[1] < ready[1] <= begun[2] < ready[2]
    wait_for(lambda: answers(port), 30)

    # systemd starts again what ends, and nothing else.
    pids = {unit: manager.property(unit, "MainPID") for unit in services}
    assert manager(f"kill -KILL {pids[decode]}")[0] == 0
    wait_for(lambda: manager.property(decode, "MainPID") not in ("0", pids[decode]), 60)
    wait_for(lambda: manager.states(decode) == {"active"}, 60)
    assert manager.property(decode, "NRestarts") == "1"
    assert manager.property(frontend, "MainPID") == pids[frontend]
    assert manager.property(prefill, "MainPID") == pids[prefill]
    wait_for(lambda: answers(port), 60)

    assert manager(f"test -d $XDG_RUNTIME_DIR/{store}")[0] == 0
    code, said = manager(f"systemctl --user stop {target}")
    assert code == 0, said
    wait_for(lambda: manager.states(*services) == {"inactive"}, 60)
    ended = [int(manager.property(unit, "InactiveEnterTimestampMonotonic")) for unit in services]
    assert ended[2] <= ended[1] <= ended[0]
    wait_for(lambda: manager(f"test -e $XDG_RUNTIME_DIR/{store.parent}")[0] == 1, 30)


def answers(port: int) -> str:
    try:
        return chat(f"http://127.0.0.1:{port}", MODEL, "Hello", max_tokens=4)
    except OSError:
        return ""
