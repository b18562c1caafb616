"""Stop a unit and verify that nothing of it is left.

Used by the supervisor, and by `down` if the supervisor is gone. So everything here works with recorded
identities and with the mark in each process's environment, not with child handles.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from dynamoctl import policies
from dynamoctl.errors import DynamoctlError
from dynamoctl.host.files import Files, files_from_json, is_there
from dynamoctl.host.processes import (
    Identity,
    age_s,
    all_pids,
    command_line,
    files_of,
    is_resource_tracker,
    is_running,
    members,
)
from dynamoctl.processes import cache_server
from dynamoctl.processes.process_control import reap, send
from dynamoctl.state import DeploymentDir, DeploymentState

# A process that has just been forked may be about to become a resource tracker; its command line shows that
# only after exec, which takes a while on a busy machine.
_NEW_S = 0.5


def kill_members(mark: str, leader: Identity | None, files: Files) -> list[Identity]:
    """SIGKILL every process of a unit until none is left; return those that remain.

    Resource trackers come last, because they remove what the other processes left in /dev/shm.

    Args:
        mark: the unit's mark, or `START-ID/` for all units of a start.
        leader: the unit's first process, if it is known.
        files: gets the files that the processes would leave (`host.processes.files_of`).
    """
    began = time.monotonic()
    while True:
        left = [process for process in members(mark, leader) if process.pid != os.getpid()]
        if not left:
            return []
        files |= files_of(process.pid for process in left)
        passed = time.monotonic() - began
        if passed > policies.KILL_PATIENCE_S:
            return left
        trackers = [process for process in left if is_resource_tracker(process.pid)]
        for process in left:
            if process in trackers and passed < policies.TRACKER_PATIENCE_S:
                continue
            if passed < _NEW_S and age_s(process) < _NEW_S:
                continue
            try:
                send(process, signal.SIGKILL)
            except PermissionError:
                return left
        time.sleep(0.05)


def own_files(state: DeploymentState) -> Files:
    """The known files that a deployment made outside its folder.

    These are the recorded files, and the cache server's pools of this start.
    """
    return state.recorded_files | cache_server.pools(state.start_id)


def files_of_plan(folder: DeploymentDir) -> Files:
    """As `own_files`, from the plan, for a deployment without a readable state."""
    try:
        plan = folder.read_plan() or {}
        return files_from_json(plan.get("earlier_files", {})) | cache_server.pools(plan.get("start_id", ""))
    except (DynamoctlError, AttributeError, TypeError):
        return {}


def remove_files(files: Files) -> Files:
    """Remove shared memory, sockets and their folders that no living process uses; return what remains.

    A file with the same path but another identity belongs to another program and is left alone.
    """
    existing = {path: identity for path, identity in files.items() if is_there(path, identity)}
    if not existing:
        return {}
    in_use = files_of(all_pids())
    left: Files = {}
    for path, identity in sorted(existing.items()):
        if any(used == path or used.startswith(f"{path}/") for used in in_use):
            left[path] = identity
            continue
        try:
            if Path(path).is_dir():
                shutil.rmtree(path)
                continue
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError:
            left[path] = identity
    return left


def remove_folders(*folders: Path) -> list[str]:
    """Remove folders and their content; return those that remain."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return [str(folder) for folder in folders if folder.exists()]


def describe(identities: Iterable[Identity]) -> list[str]:
    """Processes as text for people: pid and command line."""
    return [f"process {identity.pid} ({command_line(identity.pid)})" for identity in identities]


def terminate_and_wait(leader: Identity, grace_s: float, tick: Callable[[], object] = reap) -> bool:
    """Send one SIGTERM to a unit's first process (a second aborts vLLM's own clean-up), then wait.

    Args:
        grace_s: how long to wait, in seconds.
        tick: called on each round of the wait.

    Returns:
        Whether the process ended within `grace_s` seconds.
    """
    if not send(leader, signal.SIGTERM):
        return True
    deadline = time.monotonic() + grace_s
    while is_running(leader):
        if time.monotonic() > deadline:
            return False
        tick()
        time.sleep(0.1)
    return True
