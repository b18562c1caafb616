"""The server that forks an engine's processes, and the worker that starts it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.host.processes import MARK, environment_of, members
from dynamoctl.patches import fork_engine, fork_server
from dynamoctl.processes import worker

from tests.unit import stand_in_packages

# A process that starts a server, a process by it, and one by that in turn. Each tells what it is.
SCRIPT = """
import atexit, json, os, sys, tempfile, time
from pathlib import Path
from dynamoctl.patches import fork_server

def tell(name, **more):
    print(json.dumps({"name": name, "pid": os.getpid(), "parent": os.getppid(), **more}), flush=True)

def second(queue):
    queue.put((os.getpid(), os.getppid(), os.environ.get("LATER")))

def first(folder):
    atexit.register(Path(folder, "exit handlers ran").touch)
    context = fork_server.ForkingContext()
    queue = context.Queue()
    os.environ["LATER"] = "as it is now"
    process = context.Process(target=second, args=(queue,), name="second")
    process.start()
    tell("first", earlier=os.environ.get("EARLIER"), gone=os.environ.get("GONE"), second=queue.get())
    process.join()
    raise SystemExit(process.exitcode or 7)

if __name__ == "__main__":
    os.environ["GONE"] = "before"
    fork_server.start()
    os.environ["EARLIER"] = "after the server's start"
    del os.environ["GONE"]
    process = fork_server.ForkingContext().Process(target=first, args=(sys.argv[1],), name="first")
    process.start()
    process.join()
    tell("main", code=process.exitcode, started=process.pid)
    if sys.argv[2:] == ["wait"]:
        time.sleep(600)
"""


def mark(tmp_path: Path) -> str:
    """The mark of this test's processes, unlike that of any other run's."""
    return f"{tmp_path.name}-{os.getpid()}/worker-0"


def run(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), *words],
        env={**os.environ, MARK: mark(tmp_path), "VLLM_RPC_BASE_PATH": str(tmp_path)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_processes_are_forked_and_get_the_environment_of_the_one_that_starts_them(tmp_path: Path) -> None:
    process = run(tmp_path)
    out, _ = process.communicate(timeout=60)
    first, main = (json.loads(line) for line in out.splitlines())
    assert main["pid"] == process.pid
    # One server has forked both.
    assert first["pid"] == main["started"]
    assert first["parent"] not in (main["pid"], first["pid"])
    assert first["second"][1] == first["parent"]
    assert (first["earlier"], first["gone"]) == ("after the server's start", None)
    assert first["second"][2] == "as it is now"
    assert main["code"] == 7
    assert (tmp_path / "exit handlers ran").exists()
    # The server ends by itself.
    assert members(mark(tmp_path)) == []


def test_all_belong_to_the_unit_and_the_server_ends_with_a_killed_one(tmp_path: Path) -> None:
    process = run(tmp_path, "wait")
    assert process.stdout is not None
    try:
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        server = lines[0]["parent"]
        assert environment_of(server, MARK) == mark(tmp_path)
        assert {one.pid for one in members(mark(tmp_path))} >= {process.pid, server}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 30
    while members(mark(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(mark(tmp_path)) == []


@pytest.mark.parametrize(
    ("answer", "uses"), [(3, False), (0, True), (100, True)], ids=["not initialized", "devices", "none"]
)
def test_cuda_that_is_in_use_is_seen(answer: int, uses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SimpleNamespace(cuDeviceGetCount=lambda count: answer)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, mode: driver)
    assert fork_server.uses_cuda() is uses


def test_a_driver_that_is_not_loaded_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, mode: int) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert not fork_server.uses_cuda()


def test_vllms_modules_ask_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(get_mp_context=lambda: "spawn")
    fork_engine.fork_processes(module)
    assert module.get_mp_context() == "spawn"  # without a server
    monkeypatch.setattr(fork_server, "_is_running", True)
    assert isinstance(module.get_mp_context(), fork_server.ForkingContext)
    with pytest.raises(AttributeError):
        fork_engine.fork_processes(SimpleNamespace())


# ---- the worker ---------------------------------------------------------------------------

# Dynamo's worker, replaced by a module that tells how it was started.
DYNAMO = """
import json, os, sys
print("as the worker", json.dumps([
    __name__, sys.argv[1:], os.getcwd(), sys.path[0], sys.stdin.read(), "DYNAMOCTL_STANDBY" in os.environ,
    os.environ["PROMETHEUS_MULTIPROC_DIR"],
]), flush=True)
"""


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, str]:
    """The environment of a worker whose packages are stand-ins that import at once."""
    path = stand_in_packages.make(tmp_path, DYNAMO, "print('imported', flush=True)\n")
    return {**os.environ, "PYTHONPATH": path, "DYNAMOCTL_FORK_ENGINE": ""}


def start(environ: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", worker.__name__, "--model", "x"],
        env=environ,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_worker_is_dynamos_with_its_arguments(packages: dict[str, str], tmp_path: Path) -> None:
    out, _ = start(packages, tmp_path).communicate("", timeout=60)
    said = json.loads(out.partition("as the worker")[2])
    assert said == [
        "__main__", ["--model", "x"], str(tmp_path), str(tmp_path), "", False, str(tmp_path / "metrics")
    ]  # fmt: skip


def test_a_standby_becomes_the_worker_when_it_is_told(packages: dict[str, str], tmp_path: Path) -> None:
    here, there = tmp_path / "standby", tmp_path / "work"
    here.mkdir()
    there.mkdir()
    process = start({**packages, worker.STANDBY: "1"}, here)
    assert process.stdout is not None
    assert process.stdout.readline() == "imported\n"
    assert process.poll() is None
    order = json.dumps({"cwd": str(there), "log": str(tmp_path / "log")}) + "\n"
    out, _ = process.communicate(order, timeout=60)
    assert (here / worker.IMPORTED).exists()
    assert out == ""  # what it says now is the worker's
    said = json.loads((tmp_path / "log").read_text().partition("as the worker")[2])
    assert said == [
        "__main__", ["--model", "x"], str(there), str(there), "", False, str(there / "metrics")
    ]  # fmt: skip
    assert process.returncode == 0


def test_a_standby_whose_supervisor_is_gone_ends(packages: dict[str, str], tmp_path: Path) -> None:
    process = start({**packages, worker.STANDBY: "1"}, tmp_path)
    out, _ = process.communicate("", timeout=60)
    assert (process.returncode, out) == (0, "imported\n")
