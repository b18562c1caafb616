"""All processes of a deployment are killed at the same moment: nobody is left to remove anything.

As the OOM killer does it to a cgroup, or a user to a whole session. Python's resource trackers are killed
too: they would remove semaphores and shared memory once the others are gone. Whole deployments of vLLM are
killed in the modules that have one up.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from dynamoctl.host.files import identify_file

from .conftest import Cli, free_port, outside, wait_for
from .killing import kill_at_once
from .stand_ins import reap, stand_in, supervise

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture(autouse=True, scope="module")
def _supervisors_are_reaped() -> Iterator[None]:
    yield
    reap()


@pytest.fixture
def before() -> set[str]:
    """What was in shared memory, and what sockets and temporary files there were."""
    return outside()


@pytest.mark.engine
@pytest.mark.xdist_group("vllm-1")
@pytest.mark.fault(
    "vLLM, LMCache, trackers and supervisor are killed at once while vLLM loads",
    "`down` removes what they have left",
)
def test_down_removes_what_a_start_has_left(cli: Cli, before: set[str]) -> None:
    name = "at-once-loading"
    up = cli.start("up", "agg", "--device", "cpu", "-n", name, "--port", str(free_port()))
    state = cli.home / "deployments" / name / "state.json"
    # The engine's processes make them before they load; `status` is too slow to see a phase of two seconds.
    wait_for(lambda: state.exists() and any("/psm_" in path for path in shared_in(state)))
    up.kill()
    assert kill_at_once(cli, name)
    up.communicate(timeout=60)
    units = json.loads(state.read_text())["units"]
    assert {unit["name"]: unit["state"] for unit in units}["worker-0"] == "starting"
    left = outside() - before
    assert {path.rpartition("/")[2].partition("_")[0] for path in left} >= {"lmcache", "psm"}
    down = cli("down", "-n", name)
    assert down.code == 0, down.err
    assert outside() == before


# A worker that makes shared memory and a named semaphore, and does not get ready.
LOADS = """
import multiprocessing, time
from multiprocessing import shared_memory
block = shared_memory.SharedMemory(create=True, size=4096)
semaphore = multiprocessing.get_context("spawn").Semaphore(1)
time.sleep(600)
"""


@pytest.mark.mocker
@pytest.mark.fault(
    "a worker is killed at once with its tracker and the supervisor while it loads",
    "`down` removes what they have left",
)
def test_a_block_and_a_semaphore_of_a_worker_that_loads(cli: Cli, before: set[str]) -> None:
    name = "standin-loading"
    stand_in(cli, name, LOADS)
    supervise(cli, name)
    state = cli.home / "deployments" / name / "state.json"
    wait_for(lambda: state.exists() and len(shared_in(state)) == 2, 60)
    assert kill_at_once(cli, name)
    assert len(outside() - before) >= 2
    down = cli("down", "-n", name)
    assert down.code == 0, down.err
    assert outside() == before


def shared_in(state: Path) -> list[str]:
    return [path for path in json.loads(state.read_text())["files"] if path.startswith("/dev/shm/")]


# A worker that loads, and makes shared memory when it is told to end: an engine goes on until it has loaded.
MAKES_IT_LATE = """
import mmap, os, signal, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
file = os.open(f"/dev/shm/early_standin_{os.getpid()}", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096); early = mmap.mmap(file, 4096)
while not told:
    time.sleep(0.01)
time.sleep(0.5)
file = os.open(f"/dev/shm/late_standin_{os.getpid()}", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096); late = mmap.mmap(file, 4096)
time.sleep(0.5)
"""


@pytest.mark.mocker
@pytest.mark.fault(
    "a worker makes shared memory while it is stopped, and does not remove it", "`down` removes it"
)
@pytest.mark.parametrize("supervised", [True, False], ids=["by the supervisor", "without a supervisor"])
def test_what_a_worker_makes_on_its_way_out(cli: Cli, before: set[str], supervised: bool) -> None:
    name = f"standin-late-{supervised}".lower()
    stand_in(cli, name, MAKES_IT_LATE)
    supervisor = supervise(cli, name)
    state = cli.home / "deployments" / name / "state.json"
    wait_for(lambda: state.exists() and len(shared_in(state)) == 1, 60)
    if not supervised:
        os.kill(supervisor, signal.SIGKILL)
    down = cli("down", "-n", name)
    assert down.code == 0, down.err
    assert outside() == before


@pytest.mark.mocker
@pytest.mark.fault(
    "everything is killed at once, and another program takes the name of what is left",
    "`down` leaves it alone",
)
def test_a_name_that_is_somebody_elses_by_now_is_left_alone(cli: Cli, before: set[str]) -> None:
    name = "standin-recycled"
    stand_in(cli, name, LOADS)
    supervise(cli, name)
    state = cli.home / "deployments" / name / "state.json"
    wait_for(lambda: state.exists() and len(shared_in(state)) == 2, 60)
    kill_at_once(cli, name)
    paths = [Path(path) for path in shared_in(state)]
    recycled, other = paths
    recycled.unlink()
    recycled.write_text("not dynamoctl's")
    try:
        down = cli("down", "-n", name)
        assert down.code == 0, down.err
        assert recycled.read_text() == "not dynamoctl's"
        assert not other.exists()
    finally:
        recycled.unlink()
    assert outside() == before


HOLDS = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.mocker
@pytest.mark.fault(
    "what is left by those that were killed at once is in use by another program",
    "`up` warns and starts; `down` removes it when it is free",
)
def test_what_is_in_use_stays_and_is_not_forgotten(cli: Cli, before: set[str]) -> None:
    name = "at-once-used"
    up = ("up", "agg", "--engine", "mocker", "--drain", "0", "-n", name, "--port", str(free_port()))
    assert cli(*up).code == 0
    kill_at_once(cli, name)
    file = Path(f"/dev/shm/dynamoctl-test-{os.getpid()}")
    file.write_bytes(bytes(mmap.PAGESIZE))
    state_file = cli.home / "deployments" / name / "state.json"
    state = json.loads(state_file.read_text())
    which = identify_file(str(file))
    assert which is not None
    state["files"].append(str(file))
    state["file_identities"][str(file)] = asdict(which)
    state_file.write_text(json.dumps(state))
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(file)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            again = cli(*up, "--json")
            assert again.code == 0, again.err
            assert [one for one in again.json["warnings"] if str(file) in one]
            assert file.exists()
            refused = cli("down", "-n", name)
            assert refused.code == 5
            assert str(file) in refused.err
            assert file.exists()
        finally:
            holder.kill()
    down = cli("down", "-n", name)
    assert down.code == 0, down.err
    assert outside() == before
