"""Stop every unit, in reverse order, and give back what is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from dynamoctl import policies
from dynamoctl.host.processes import Identity, NewMemory, children, files_of, identify, members
from dynamoctl.humanize import duration
from dynamoctl.processes import cache_server, cleanup, process_control
from dynamoctl.supervisor import lifecycle, standby
from dynamoctl.supervisor.deployment import Deployment, within
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit


async def take_all_down(deployment: Deployment) -> list[str]:
    """Retry while no file descriptors are free, because every check needs one. `down` waits
    for three minutes, and then does it itself. Returns what stays all the same."""
    while True:
        try:
            return await take_down(deployment)
        except OSError as error:
            say(f"cannot take it down: {error}", "WARN")
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


async def take_down(deployment: Deployment) -> list[str]:
    """One try."""
    left: list[str] = []
    folder = deployment.folder
    for member in deployment.members:
        standby.end(member)
    folder.remove_targets()  # first: what goes now is not what an alert is for
    for roles in policies.STOP_ORDER:
        going = [m for m in deployment.members if m.unit.role in roles]
        for names in await asyncio.gather(*(stop(deployment, m) for m in going)):
            left += names
    deployment.reap()
    stray = await asyncio.to_thread(_kill_strays, deployment)
    left += cleanup.describe(stray)
    still = cleanup.remove_files(deployment.files | cache_server.pools(deployment.start_id))
    deployment.state.record_files(still)
    left += still
    # Last: a live worker logs errors when its store goes.
    left += cleanup.remove_folders(folder.store, folder.path / "run")
    with contextlib.suppress(OSError):
        folder.socket.unlink()
    return left


async def stop(deployment: Deployment, member: RunningUnit) -> list[str]:
    """Stop one unit: SIGTERM, its grace period, SIGKILL. Returns what stays."""
    if member.state.state == "stopped":  # before something else failed, and all is tried again
        return []
    # An engine that does not answer may be in the middle of a step, with requests.
    was_ready = member.state.state == "ready" or (member.state.state == "unresponsive" and not member.is_deaf)
    deployment.follow(member, "stop")
    leader = member.state.identity
    if leader is None:
        return []
    deployment.save()
    grace = policies.stop_grace_s(deployment.plan.drain_s) if was_ready else policies.GRACE_LOADING_S
    deployment.files |= await asyncio.to_thread(deployment.files_now, [member])
    began = time.monotonic()
    if process_control.send(leader, signal.SIGTERM):
        await _until_ended(deployment, member, grace)
    stay = await asyncio.to_thread(deployment.kill, member)
    if stay:
        return cleanup.describe(stay)
    say(f"{member.unit.name} is stopped after {duration(time.monotonic() - began)}")
    deployment.follow(member, "ended")
    member.state.phase = ""
    deployment.save()
    return []


async def _until_ended(deployment: Deployment, member: RunningUnit, grace_s: float) -> None:
    """Wait for a unit that was told to end, and note the files that it makes meanwhile.

    An engine that loads goes on until it has loaded. On a GPU it then makes a file for the memory that it
    shares with LMCache's server.
    """
    memory, deadline = NewMemory(), time.monotonic() + grace_s
    while not await within(lifecycle.GLANCE_S, member.ended) and time.monotonic() < deadline:
        if memory.is_there():
            deployment.files |= await asyncio.to_thread(deployment.files_now, [member])


def _kill_strays(deployment: Deployment) -> list[Identity]:
    """Whatever was handed to us as a subreaper and carries no mark any more."""
    for _ in range(100):
        strays = [one for pid in children(os.getpid()) if (one := identify(pid)) is not None]
        if not strays:
            break
        deployment.files |= files_of(one.pid for one in strays)
        for one in strays:
            with contextlib.suppress(PermissionError):
                process_control.send(one, signal.SIGKILL)
        time.sleep(0.05)
        process_control.reap()
    return [*strays, *members(f"{deployment.start_id}/")]
