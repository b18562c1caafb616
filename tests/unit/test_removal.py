"""What a killed unit leaves in /dev/shm is removed: by Python's own resource tracker, or by us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from dynamoctl import policies
from dynamoctl.host.files import Files
from dynamoctl.host.processes import MARK, files_of, identify, is_resource_tracker, members
from dynamoctl.processes import cleanup

SHARED = Path("/dev/shm")

# A named block of shared memory that nothing has mapped: only the tracker knows of it. On a busy machine it
# may take a while until the tracker, once forked, runs its own program.
SCRIPT = """
import os, sys, time
from multiprocessing import shared_memory, util

def spawn(path, words, descriptors):
    pid = os.fork()
    if pid == 0:
        for one in descriptors:
            os.set_inheritable(one, True)
        time.sleep(float(sys.argv[2]))
        os.execv(path, words)
    return pid

util.spawnv_passfds = spawn
block = shared_memory.SharedMemory(sys.argv[1], create=True, size=4096)
block.close()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(params=[0, 0.3], ids=["at once", "late"])
def unit(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """A unit's first process with its tracker: (process, mark, the file it has made)."""
    mark, name = f"{uuid.uuid4().hex}/worker-0", f"dynamoctl-test-{uuid.uuid4().hex}"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name, str(request.param)],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process, mark, SHARED / name
    for one in members(mark):
        os.kill(one.pid, signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    (SHARED / name).unlink(missing_ok=True)


def test_a_killed_units_resource_tracker_may_remove_what_nobody_has_mapped(
    unit: tuple[subprocess.Popen[str], str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, mark, file = unit
    assert file.exists()
    monkeypatch.setattr(policies, "TRACKER_PATIENCE_S", 60)  # this machine may be busy
    found: Files = {}
    assert cleanup.kill_members(mark, identify(process.pid), found) == []
    assert set(found) <= {str(file)}  # a tracker that is late has it mapped, as its parent had
    assert not file.exists()


def test_a_tracker_that_does_not_end_is_killed_too(
    unit: tuple[subprocess.Popen[str], str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, mark, _ = unit
    for _ in range(200):  # of 0.05 s
        trackers = [one for one in members(mark) if is_resource_tracker(one.pid)]
        if trackers:
            break
        time.sleep(0.05)
    (tracker,) = trackers
    os.kill(tracker.pid, signal.SIGSTOP)
    monkeypatch.setattr(policies, "TRACKER_PATIENCE_S", 0.2)
    began = time.monotonic()
    assert cleanup.kill_members(mark, identify(process.pid), {}) == []
    assert time.monotonic() - began >= 0.2
    assert members(mark) == []


def test_the_folder_for_metrics_of_a_killed_worker_goes_but_not_one_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker makes it, and its engine's processes have it in their environment."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "vllm_prometheus_abc"
    folder.mkdir()
    (folder / "counter.db").write_text("1")
    variable = "PROMETHEUS_MULTIPROC_DIR"
    engine = subprocess.Popen(["sleep", "600"], env={**os.environ, variable: str(folder)})
    foreign = subprocess.Popen(["sleep", "600"], env={**os.environ, variable: "/var/of-the-users-own"})
    try:
        found = files_of([engine.pid, foreign.pid])
        assert set(found) == {str(folder)}
        assert cleanup.remove_files({**found}) == found
    finally:
        for one in (engine, foreign):
            one.kill()
            one.wait()
    assert cleanup.remove_files({**found}) == {}
    assert not folder.exists()
