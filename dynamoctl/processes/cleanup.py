"""Stopping a unit and proving that nothing of it is left.

Used by the supervisor, and by `down` where the supervisor itself is gone: so everything here works
from recorded identities and from the mark that each process carries, not from child handles.
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
from dynamoctl.state import DeploymentState, Folder

# A process that has just been forked may be about to become a resource tracker: its command line does not say
# so yet, and on a busy machine that takes a while.
_NEW_S = 0.5


def kill_members(mark: str, leader: Identity | None, found: Files) -> list[Identity]:
    """SIGKILL every process of a unit until none is left; give back those that stay.

    Resource trackers are the last to go: what the others have left in /dev/shm is theirs to remove.

    Args:
        mark: the unit's mark, or `START-ID/` for all units of a start.
        leader: the unit's first process, if it is known.
        found: gets the files that they would leave (`host.processes.files_of`).
    """
    began = time.monotonic()
    while True:
        left = [one for one in members(mark, leader) if one.pid != os.getpid()]
        if not left:
            return []
        found |= files_of(one.pid for one in left)
        passed = time.monotonic() - began
        if passed > policies.KILL_PATIENCE_S:
            return left
        trackers = [one for one in left if is_resource_tracker(one.pid)]
        for one in left:
            if one in trackers and passed < policies.TRACKER_PATIENCE_S:
                continue
            if passed < _NEW_S and age_s(one) < _NEW_S:
                continue
            try:
                send(one, signal.SIGKILL)
            except PermissionError:
                return left
        time.sleep(0.05)


def own_files(state: DeploymentState) -> Files:
    """What a deployment has made outside its folder, as far as that can be known without its processes:
    what was noted, and what carries the name of this start.
    """
    return state.recorded_files | cache_server.pools(state.start_id)


def files_of_plan(folder: Folder) -> Files:
    """The same where there is no state: what the plan tells."""
    try:
        plan = folder.read_plan() or {}
        return files_from_json(plan.get("earlier_files", {})) | cache_server.pools(plan.get("start_id", ""))
    except (DynamoctlError, AttributeError, TypeError):
        return {}


def remove_files(files: Files) -> Files:
    """Remove shared memory, sockets and their folders that no living process uses; give back what stays.

    What has come under the name of a file that is gone is another's, and is left alone.
    """
    there = {path: which for path, which in files.items() if is_there(path, which)}
    if not there:
        return {}
    in_use = files_of(all_pids())
    left: Files = {}
    for path, which in sorted(there.items()):
        if any(used == path or used.startswith(f"{path}/") for used in in_use):
            left[path] = which
            continue
        try:
            if Path(path).is_dir():
                shutil.rmtree(path)
                continue
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError:
            left[path] = which
    return left


def remove_folders(*folders: Path) -> list[str]:
    """Remove folders with all that is in them; give back those that stay."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return [str(folder) for folder in folders if folder.exists()]


def describe(identities: Iterable[Identity]) -> list[str]:
    """Leftover processes for people."""
    return [f"process {one.pid} ({command_line(one.pid)})" for one in identities]


def terminate_and_wait(leader: Identity, grace_s: float, tick: Callable[[], object] = reap) -> bool:
    """One SIGTERM to a unit's first process (a second would abort vLLM's own clean-up), then wait.

    Returns:
        Whether it has ended within `grace_s` seconds.
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
