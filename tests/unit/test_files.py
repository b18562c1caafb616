"""Which file it is, by its path, its inode and its birth; and what is provably a deployment's own."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.host import files
from dynamoctl.host.files import FileIdentity, Files, files_as_json, files_from_json, identify_file, is_there
from dynamoctl.host.processes import MARK, files_of
from dynamoctl.processes import cache_server, cleanup
from dynamoctl.state import DeploymentDir, DeploymentState


@pytest.fixture
def block() -> Iterator[Path]:
    """A file in shared memory."""
    path = files.SHARED_MEMORY / f"dynamoctl-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(mmap.PAGESIZE))
    yield path
    path.unlink(missing_ok=True)


def state(**more: Any) -> DeploymentState:
    return DeploymentState("default", "agg", "m", "http://127.0.0.1:1", uuid.uuid4().hex, **more)


def test_a_file_keeps_its_identity_and_another_of_its_name_has_another(block: Path) -> None:
    first = identify_file(str(block))
    assert first is not None
    block.write_bytes(b"changed")
    moved = block.with_name(f"{block.name}-moved")
    block.rename(moved)
    assert identify_file(str(moved)) == first
    assert identify_file(str(block)) is None
    moved.unlink()
    block.touch()
    second = identify_file(str(block))
    assert second != first
    assert is_there(str(block), second)
    assert is_there(str(block), None)
    assert not is_there(str(block), first)


def test_the_birth_of_a_file_is_when_it_was_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (1, 1))
    found = identify_file(str(file))
    assert found is not None
    assert found.inode == file.stat().st_ino
    if found.born_ns:  # not every file system says it
        assert abs(found.born_ns / 1e9 - file.stat().st_ctime) < 60


def test_without_statx_the_inode_decides(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_statx", lambda: None)
    assert identify_file(str(block)) == FileIdentity(block.stat().st_ino, 0)


def test_a_symbolic_link_is_itself(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    found = identify_file(str(link))
    assert found is not None
    assert found.inode == link.lstat().st_ino


def test_what_has_taken_a_recorded_name_is_left_alone(block: Path) -> None:
    recorded: Files = {str(block): identify_file(str(block))}
    block.unlink()
    block.write_text("another's")
    assert cleanup.remove_files(recorded) == {}
    assert block.read_text() == "another's"
    assert cleanup.remove_files({str(block): identify_file(str(block))}) == {}
    assert not block.exists()


def test_what_a_living_process_has_mapped_stays_and_is_given_back(block: Path) -> None:
    recorded: Files = {str(block): identify_file(str(block))}
    with block.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert cleanup.remove_files(recorded) == recorded
    assert block.exists()


def test_a_named_semaphore_is_its_process_although_the_maps_have_another_name() -> None:
    """glibc's sem_open maps it under a name of its own, which it then removes."""
    semaphore: Any = multiprocessing.get_context("spawn").Semaphore(1)
    path = f"{files.SHARED_MEMORY}/sem.{semaphore._semlock.name.removeprefix('/')}"
    assert path not in Path("/proc/self/maps").read_text()
    found = files_of([os.getpid()])
    assert found[path] == identify_file(path)
    assert cleanup.remove_files({path: found[path]}) == {path: found[path]}  # in use


def test_a_state_knows_which_files_it_has_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    recorded: Files = {"/dev/shm/b": FileIdentity(7, 8), "/dev/shm/a": None}
    one = state()
    one.record_files(recorded)
    folder = DeploymentDir("default")
    folder.write_state(one)
    again = folder.read_state()
    assert again == one
    assert again.files == ["/dev/shm/a", "/dev/shm/b"]
    assert again.recorded_files == recorded
    assert files_from_json(json.loads(json.dumps(files_as_json(recorded)))) == recorded


def test_an_older_state_is_read_and_its_files_go_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: Path
) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    body = asdict(state(files=[str(block)]))
    del body["file_identities"]
    folder = DeploymentDir("default")
    folder.path.mkdir(parents=True)
    folder.state_file.write_text(json.dumps(body))
    old = folder.read_state()
    assert old is not None
    assert cleanup.own_files(old) == {str(block): None}
    assert cleanup.remove_files(cleanup.own_files(old)) == {}
    assert not block.exists()


@pytest.fixture
def pool() -> Iterator[tuple[DeploymentState, Path]]:
    """A state that has noted nothing, and the pool of its cache server."""
    one = state()
    path = files.SHARED_MEMORY / cache_server.pool(f"{one.start_id}/lmcache")
    path.touch()
    yield one, path
    path.unlink(missing_ok=True)


def test_a_pool_is_known_by_its_name_alone(pool: tuple[DeploymentState, Path]) -> None:
    own, path = pool
    # Another one was noted, before the server was started again.
    own.record_files({str(path): FileIdentity(1, 1)})
    assert cleanup.own_files(own) == {str(path): None}
    assert cleanup.own_files(state()) == {}
    assert cache_server.pools("") == {}


@pytest.mark.parametrize(
    ("body", "knows"),
    [
        ({}, False),
        ({"start_id": "START"}, True),
        ({"start_id": "START", "earlier_files": {"/dev/shm/x": {"inode": 1, "born_ns": 2}}}, True),
        ({"start_id": "START", "earlier_files": []}, False),
        ({"start_id": "START", "earlier_files": {"/dev/shm/x": {"other": 1}}}, False),
        ({"start_id": 7}, False),
    ],
)
def test_without_a_state_the_plan_tells(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pool: tuple[DeploymentState, Path],
    body: dict[str, Any],
    knows: bool,
) -> None:
    own, path = pool
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    folder = DeploymentDir("default")
    if body.get("start_id") == "START":
        body = {**body, "start_id": own.start_id}
    folder.write_plan(body)
    found = cleanup.files_of_plan(folder)
    assert (str(path) in found) is knows
    if knows and "earlier_files" in body:
        assert found["/dev/shm/x"] == FileIdentity(1, 2)


@pytest.mark.parametrize(
    ("mark", "given", "named"),
    [
        ("START/lmcache", [], ["--shm-name", "lmcache_l1_pool_dynamoctl-START-lmcache"]),
        ("START/lmcache", ["--shm-name", "mine"], []),
        ("", [], []),
    ],
)
def test_a_server_names_its_pool_after_its_unit(mark: str, given: list[str], named: list[str]) -> None:
    """Under a supervisor; an exported script or service has no mark. Nobody's choice is overruled."""
    script = """
import sys, types
parts = "cli", "cli.main", "v1", "v1.multiprocess", "v1.distributed", "v1.distributed.l2_adapters"
for name in ("lmcache", *(f"lmcache.{part}" for part in parts)):
    sys.modules[name] = types.ModuleType(name)
sys.modules["lmcache.cli.main"].main = lambda: print(*sys.argv[1:])
app = types.SimpleNamespace(router=types.SimpleNamespace(routes=[]))
sys.modules["lmcache.v1.multiprocess"].http_server = types.SimpleNamespace(app=app)
sys.modules["lmcache.v1.distributed.l2_adapters"].factory = types.SimpleNamespace()
from dynamoctl.processes import cache_server
cache_server.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *given],
        env={**os.environ, MARK: mark},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["server", *given, *named]
