"""Watch running units: whether they answer and are registered, and which files they would leave behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from dynamoctl import policies
from dynamoctl.host.processes import Identity, memory_changed_ns, traces_of_files
from dynamoctl.logs import files
from dynamoctl.monitoring import probes
from dynamoctl.supervisor import lifecycle, readiness
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.registrations import Registrations
from dynamoctl.supervisor.running_unit import RunningUnit
from dynamoctl.supervisor.silences import Silences

# Seconds between full scans for files, in case a change was missed.
_FILES_INTERVAL_S = 60.0
# Units in these states create files at any moment, and a file made just before a kill would be unknown.
_MAKING_FILES = ("pending", "starting", "backoff")


async def surely(watch: Callable[[Deployment], Awaitable[None]], deployment: Deployment) -> None:
    """Run a watch, and run it again if the host is temporarily out of descriptors or disk space."""
    while True:
        try:
            await watch(deployment)
            return
        except OSError as error:
            say(f"{watch.__name__}: {error}", "WARN")
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


async def keep_up(deployment: Deployment) -> None:
    """Keep registrations and log sizes in order from the first start on, forever.

    An engine that imports its modules can starve units that are up already.
    """
    while True:
        await asyncio.sleep(lifecycle.KEEP_INTERVAL_S)
        await asyncio.to_thread(_keep, deployment)
        deployment.put_back()


def _keep(deployment: Deployment) -> None:
    # First, because it works even if no descriptor is left.
    for name in ("supervisor", *(member.unit.name for member in deployment.members)):
        files.bound(deployment.folder.log(name))
    keep_registered(deployment)
    _keep_drained(deployment)


def _keep_drained(deployment: Deployment) -> None:
    """Keep requests away from drained workers that were restarted since."""
    drained = [member for member in deployment.members if member.state.service == "drained"]
    for own in deployment.processes_of_each(drained) if drained else ():
        deployment.withhold(own)


def keep_registered(deployment: Deployment) -> None:
    """One round of `Registrations.keep`."""
    registrations, frontend = deployment.registrations, deployment.frontend
    if registrations is not None and registrations.keep(deployment.living) and frontend:
        # The frontend would see only a part of the registrations, and route by that part.
        deployment.end_to_restart(frontend, "its store was deleted")


async def watch_files(deployment: Deployment) -> None:
    """Record new files when shared memory or sockets change, and again on the next round.

    The second scan is needed because a file is mapped a moment after it is made. This runs from the first
    start on: a loading engine has made most of its files before it is ready.
    """
    traces: tuple[int, frozenset[str]] = (0, frozenset())
    again, is_ours, looked = True, True, 0.0
    while True:
        if not any(member.state.state in _MAKING_FILES for member in deployment.members):
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        elif not is_ours:  # the changes are those of other programs: check less often
            await asyncio.sleep(lifecycle.GATE_INTERVAL_S)
        else:
            await _memory_or(lifecycle.GATE_INTERVAL_S, traces[0])
        before, traces = traces, await asyncio.to_thread(traces_of_files)
        is_late = time.monotonic() - looked > _FILES_INTERVAL_S
        is_ours = True
        if again or is_late or traces != before:
            again, looked = traces != before, time.monotonic()
            if is_ours := await asyncio.to_thread(deployment.note_files, deployment.members):
                deployment.save()


async def _memory_or(seconds: float, changed_ns: int) -> None:
    """Wait until any process makes shared memory, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while memory_changed_ns() == changed_ns and time.monotonic() < deadline:
        await asyncio.sleep(lifecycle.GLANCE_S)


async def watch_answers(deployment: Deployment) -> None:
    """Take units that live but do not answer out of service, and restart those that stay silent."""
    silences = Silences(deployment)
    while True:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        for member, silence in await silences.look():
            if member.state.state not in ("ready", "unresponsive") or member.ended.is_set() or member.renewed:
                continue  # it has ended, or is about to, while the loop handled other units
            if silence.is_hung:
                deployment.end_to_restart(member, silence.words)
            elif silence.is_silent:
                member.is_deaf = silence.is_deaf
                await deployment.take_out_of_service(member, silence.words)
            elif member.state.state == "unresponsive" and not silence.seconds:
                await deployment.put_back_into_service(member)


async def watch_registrations(deployment: Deployment) -> None:
    """Restart a ready worker whose registration was lost before the supervisor saw it.

    Such a worker does not register again and gets no requests. A registration that was seen is put back
    instead (`Registrations.keep`).
    """
    missing: dict[Identity | None, float] = {}
    while deployment.registrations is not None:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        unseen = {one.state.identity: one for one in await _never_seen(deployment, deployment.registrations)}
        now = time.monotonic()
        missing = {identity: missing.get(identity, now) for identity in unseen}
        for identity, since in missing.items():
            if now - since > policies.UNREGISTERED_S and unseen[identity].state.state == "ready":
                deployment.end_to_restart(unseen[identity], "its registration was lost")


async def _never_seen(deployment: Deployment, registrations: Registrations) -> list[RunningUnit]:
    """The workers that are ready and whose registration was never seen."""
    workers = [member for member in deployment.members if member.unit.is_worker]
    ready = [worker for worker in workers if worker.state.state == "ready"]
    # Usually the first process registers; finding the others takes a scan of all processes of the host.
    unseen = [
        worker for worker in ready if registrations.has_never_seen(filter(None, [worker.state.identity]))
    ]
    owners = await asyncio.to_thread(deployment.processes_of_each, unseen) if unseen else []
    unseen = [worker for worker, own in zip(unseen, owners, strict=True) if registrations.has_never_seen(own)]
    if deployment.listed and len(unseen) == len(ready):
        return []  # the frontend knows the workers from elsewhere than the discovery directory
    return unseen


async def watch_lists(deployment: Deployment) -> None:
    """Degrade a deployment whose frontend does not list the model, whatever its units report.

    If the frontend does not list it although every worker is registered, it is restarted: it watches the
    discovery directories, and sees no changes after they were deleted.
    """
    since: float | None = None
    frontend = deployment.frontend
    while frontend is not None:
        interval = lifecycle.WATCH_INTERVAL_S if deployment.listed else lifecycle.GATE_INTERVAL_S
        await asyncio.sleep(interval)
        if not await probes.answers(frontend.unit.gate):
            since = None  # frozen or restarting: its list says nothing now
            continue
        listed, why = await readiness.is_listed(deployment)
        if listed != deployment.listed:
            deployment.listed = listed
            if not listed:
                say(why, "WARN")
            if deployment.plan.elsewhere and frontend.state.state == "ready":
                frontend.state.phase = why
            deployment.degrade_or_recover()
            deployment.save()
        if listed or not await _all_are_registered(deployment):
            since = None
        elif since is None:
            since = time.monotonic()
        elif time.monotonic() - since > policies.UNLISTED_S:
            since = None
            deployment.end_to_restart(frontend, f"not listing {deployment.plan.model}")


async def _all_are_registered(deployment: Deployment) -> bool:
    """Whether all units are ready and all workers registered; always False if discovery uses etcd."""
    registrations = deployment.registrations
    if registrations is None or any(member.state.state != "ready" for member in deployment.members):
        return False
    workers = [member for member in deployment.members if member.unit.is_worker]
    owners = await asyncio.to_thread(deployment.processes_of_each, workers)
    return all([await asyncio.to_thread(registrations.has_any, own) for own in owners])
