"""Start the units in order, and wait at their gates."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

from dynamoctl.errors import NotReadyError
from dynamoctl.host import models
from dynamoctl.host.facts import memory_gib
from dynamoctl.host.processes import MARK, listens
from dynamoctl.humanize import duration
from dynamoctl.logs.phases import LogWatch
from dynamoctl.monitoring import probes
from dynamoctl.processes import cleanup, process_control
from dynamoctl.supervisor import failures, lifecycle, readiness, standby
from dynamoctl.supervisor.deployment import Deployment, within
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.read_ahead import read_ahead
from dynamoctl.supervisor.running_unit import RunningUnit

# Largest share of the free memory that weights may take as page cache: the engines need the rest.
_WEIGHTS_SHARE = 0.5


async def bring_up(deployment: Deployment) -> None:
    """Start each unit when the gates before it have passed; then verify that the deployment serves.

    Raises:
        NotReadyError: a unit or the deployment does not become ready.
    """
    reading = asyncio.ensure_future(read_logs(deployment))
    enough = threading.Event()
    threading.Thread(target=_read_weights_ahead, args=(deployment, enough), daemon=True).start()
    try:
        for member in deployment.members:
            standby.prepare(deployment, member)
        async with asyncio.TaskGroup() as group:
            for member in deployment.members:
                group.create_task(start_in_turn(deployment, member))
        await readiness.verify(deployment)
    finally:
        reading.cancel()
        enough.set()


def _read_weights_ahead(deployment: Deployment, enough: threading.Event) -> None:
    """Read the weights into the page cache if they fit; otherwise their pages would evict each other."""
    plan = deployment.plan
    model = models.locate(plan.model_path, environ=plan.units[0].environ(os.environ))
    if plan.engine != "vllm" or model.folder is None or model.weights_gib is None:
        return
    room = memory_gib()[1] - plan.lmcache_cpu_gib
    if model.weights_gib < room * _WEIGHTS_SHARE:
        read_ahead(models.weight_files(Path(model.folder)), enough)


async def start_in_turn(deployment: Deployment, member: RunningUnit) -> None:
    """Start a unit when the units before it are ready, and wait until it is ready."""
    for other in deployment.members:
        if other.unit.name in member.unit.after:
            await other.ready.wait()
    start(deployment, member)
    await gate(deployment, member)


def start(deployment: Deployment, member: RunningUnit) -> None:
    """Start a unit.

    Raises:
        NotReadyError: its program cannot be started.
    """
    unit, state = member.unit, member.state
    deployment.follow(member, "start")
    member.ended.clear()
    member.exit_code, member.stranger = None, False
    log = deployment.folder.log(unit.name)
    member.log = LogWatch(log)
    environ = standby.environ_of(deployment, member)
    work = deployment.folder.work(member.place)
    cleanup.remove_folders(work)
    try:
        state.identity = standby.take(deployment, member, environ) or process_control.spawn(
            standby.command_line(unit.argv), environ | {MARK: member.mark}, work, log
        )
    except OSError as error:
        deployment.follow(member, "died")
        raise NotReadyError(f"{unit.name} cannot be started: {error}") from None
    state.started_at, state.exit, state.error = time.time(), "", ""
    state.phase = "importing"
    deployment.save()
    say(f"{unit.name} is started: pid {state.identity.pid}")


async def gate(deployment: Deployment, member: RunningUnit) -> None:
    """Wait until the unit's own process reports ready.

    Raises:
        NotReadyError: the unit has ended, or can never become ready.
    """
    while True:
        if member.ended.is_set():
            raise failures.died(deployment, member)
        says_ready, _ = await probes.gate_is_open(member.unit.gate)
        if says_ready:
            if _is_own_answer(deployment, member):
                break
            member.stranger = True
            member.state.phase = "waiting: another process answers at its port"
        if member.log is not None and member.log.port_lost:
            raise failures.lost_port(deployment, member)
        await within(lifecycle.GATE_INTERVAL_S, member.ended)
    failures.check_lmcache(deployment, member)
    deployment.follow(member, "gate_passed")
    member.state.phase, member.state.ready_at, member.ready_since = "", time.time(), time.monotonic()
    member.start_s = max(member.start_s, member.state.ready_at - member.state.started_at)
    deployment.note_files([member])
    member.ready.set()
    deployment.save()
    say(f"{member.unit.name} is ready after {duration(member.state.ready_at - member.state.started_at)}")


def _is_own_answer(deployment: Deployment, member: RunningUnit) -> bool:
    """Whether the port that answered belongs to the unit's own processes."""
    port, leader = member.unit.gate.port, member.state.identity
    # Usually the first process listens; finding the others takes a scan of all processes of the host.
    return (leader is not None and listens(port, [leader])) or listens(port, deployment.processes(member))


async def read_logs(deployment: Deployment) -> None:
    """Keep the phases of starting units up to date, forever."""
    while True:
        await asyncio.sleep(lifecycle.GATE_INTERVAL_S)
        changed = False
        for member in deployment.members:
            if member.state.state != "starting" or member.log is None:
                continue
            member.log.read()  # also if a stranger answers: the log then says that the port is lost
            if member.state.phase != member.log.phase and not member.stranger:
                member.state.phase = member.log.phase
                changed = True
        if changed:
            deployment.save()
