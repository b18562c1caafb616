"""Processes that have imported what a worker imports, and wait to become it.

A worker imports vLLM and Dynamo for 20 to 30 s, longer than its engine takes to start with a small model. The
imports need nothing that a start waits for: neither the cache server, nor the workers before it, nor free GPU
memory. So each vLLM worker begins as a standby when the deployment starts, and becomes the worker when its
turn comes. With `standby` in the plan, each worker that is up has one for its next start.

A standby is started with the command line and the environment of its worker (`processes.worker`). Only its
mark is another: what belongs to the unit is killed before a restart, and the standby must not be.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dynamoctl.errors import DynamoctlError
from dynamoctl.host.processes import MARK, Identity, is_running
from dynamoctl.monitoring import etcd
from dynamoctl.patches import engine_heartbeat
from dynamoctl.planner.plan import Unit
from dynamoctl.processes import cleanup, process_control, worker
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit

_PLAIN = ("-m", "dynamo.vllm")
_PRELOADING = ("-m", worker.__name__)
# Between two tries for a worker whose last standby has ended by itself, or could not be started.
_RETRY_S = 60.0
# Cores of the host for each standby that imports while workers serve: an import takes one.
_CORES = 4


class Standby:
    """A process that waits to become a worker.

    Args:
        member: the unit that it is for.
        environ: the unit's environment.
        folder: its working directory, with its output; the unit's own is in use.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, member: RunningUnit, environ: Mapping[str, str], folder: Path) -> None:
        self.mark = member.next_mark()
        self._environ = dict(environ)
        self._folder = folder
        cleanup.remove_folders(folder)
        order, self._order = os.pipe()
        try:
            self.identity = process_control.spawn(
                command_line(member.unit.argv),
                self._environ | {MARK: self.mark, worker.STANDBY: "1"},
                folder,
                folder / "output.log",
                stdin=order,
            )
        except OSError:
            os.close(self._order)
            raise
        finally:
            os.close(order)

    def become_the_worker(self, environ: Mapping[str, str], work: Path, log: Path) -> Identity | None:
        """Have it run the worker, as soon as it has imported everything.

        Args:
            environ: the environment that the worker is to have.
            work: the unit's working directory, which exists.
            log: the unit's log.

        Returns:
            Its identity; None if it cannot, because it has ended or has another environment.
        """
        if self._environ != environ or not self.is_alive:
            self.end()
            return None
        try:
            os.write(self._order, json.dumps({"cwd": str(work), "log": str(log)}).encode() + b"\n")
        except BrokenPipeError:
            return None
        finally:
            os.close(self._order)
        return self.identity

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return is_running(self.identity)

    @property
    def has_imported(self) -> bool:
        """Whether it has imported everything."""
        return (self._folder / worker.IMPORTED).exists()

    def end(self) -> None:
        """Kill it. It has nothing but memory, and has started nothing."""
        with suppress(OSError):
            os.close(self._order)
        process_control.send(self.identity, signal.SIGKILL)
        cleanup.remove_folders(self._folder)


def environ_of(deployment: Deployment, member: RunningUnit) -> dict[str, str]:
    """The environment of a unit's processes, but for their mark.

    Raises:
        PreflightError: a certificate for etcd cannot be used.
    """
    unit = member.unit
    environ = dict(unit.environ({**os.environ, **deployment.sockets()}))
    if deployment.plan.discovery == "etcd":
        environ = etcd.with_certificates(environ)
    if unit.is_worker:
        if engine_heartbeat.VARIABLE not in unit.env:  # empty in [env] switches it off
            environ[engine_heartbeat.VARIABLE] = str(deployment.folder.work(member.place))
        environ[engine_heartbeat.INTERVAL_VARIABLE] = f"{engine_heartbeat.INTERVAL_S:g}"
    return environ


def command_line(argv: Sequence[str]) -> tuple[str, ...]:
    """A worker's command line, with the imports first: otherwise the same program with the same arguments."""
    python, *words = argv
    if tuple(words[:2]) == _PLAIN:
        return (python, *_PRELOADING, *words[2:])
    return tuple(argv)


def is_possible(unit: Unit) -> bool:
    """Whether the unit can begin as a standby."""
    return command_line(unit.argv) != unit.argv


def prepare(deployment: Deployment, member: RunningUnit) -> None:
    """Start a standby for a unit that can have one, in place of the one it has.

    If that fails, the unit is started without.
    """
    if not is_possible(member.unit):
        return
    end(member)
    try:
        member.standby = Standby(
            member, environ_of(deployment, member), deployment.folder.work(f"{member.unit.name}.standby")
        )
    except (OSError, DynamoctlError) as error:
        say(f"{member.unit.name} has no standby: {error}", "WARN")


def take(deployment: Deployment, member: RunningUnit, environ: Mapping[str, str]) -> Identity | None:
    """Have the unit's standby become its process, if there is one.

    Args:
        environ: the unit's environment.
    """
    standby, member.standby = member.standby, None
    member.state.standby = ""
    if standby is None:
        return None
    work = deployment.folder.work(member.place)
    work.mkdir(parents=True, exist_ok=True)
    identity = standby.become_the_worker(environ, work, deployment.folder.log(member.unit.name))
    if identity is not None:
        member.mark = standby.mark
    return identity


async def keep_ready(deployment: Deployment) -> None:
    """Give each worker that is up a standby for its next start, forever."""
    at_once = max(1, (os.cpu_count() or 1) // _CORES)
    # On few cores, an import would slow down the start of the worker itself.
    states = ("ready", "starting") if at_once > 1 else ("ready",)
    not_before: dict[str, float] = {}
    while True:
        await asyncio.sleep(lifecycle.KEEP_INTERVAL_S)
        if not deployment.plan.standby:
            continue
        workers = [one for one in deployment.members if is_possible(one.unit) and one.state.counts]
        before = [member.state.standby for member in workers]
        for member in workers:
            _note(member)
        for member in workers:
            name, now = member.unit.name, time.monotonic()
            if member.state.state not in states or member.state.standby or now < not_before.get(name, 0.0):
                continue
            # It may have been a standby until now, whose folder the next one would take away from it.
            if member.state.phase == "importing":
                continue
            if sum(other.state.standby == "importing" for other in workers) < at_once:
                ended_by_itself = member.standby is not None
                prepare(deployment, member)
                if ended_by_itself or member.standby is None:
                    not_before[name] = now + _RETRY_S
                _note(member)
        if before != [member.state.standby for member in workers]:
            deployment.save()


def _note(member: RunningUnit) -> None:
    standby = member.standby
    if standby is None or not standby.is_alive:
        member.state.standby = ""
    else:
        member.state.standby = "ready" if standby.has_imported else "importing"


def end(member: RunningUnit) -> None:
    """Kill a unit's standby, if there is one."""
    standby, member.standby = member.standby, None
    member.state.standby = ""
    if standby is not None:
        standby.end()
