"""Watch what is up: does it answer, is the model listed, what would it leave behind?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from dynamoctl import policies
from dynamoctl.host.processes import memory_changed_ns, traces_of_files
from dynamoctl.logs import files
from dynamoctl.monitoring import probes
from dynamoctl.supervisor import lifecycle, readiness
from dynamoctl.supervisor.deployment import Deployment, Member
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.registrations import Registrations
from dynamoctl.supervisor.silences import Silences

# How often all processes are looked through for files that nothing has told of.
_FILES_INTERVAL_S = 60.0
# Units in these states make files at any moment, and one that is made just before all is killed is not known.
_MAKING_FILES = ("pending", "starting", "backoff")
# How often it is asked then whether there is new shared memory.
_GLANCE_S = 0.05


async def surely(watch: Callable[[Deployment], Awaitable[None]], deployment: Deployment) -> None:
    """Go on watching where the host has run out of descriptors or of disk for a while."""
    while True:
        try:
            await watch(deployment)
            return
        except OSError as error:
            say(f"{watch.__name__}: {error}", "WARN")
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


async def keep_up(deployment: Deployment) -> None:
    """Registrations and logs, from the first start on: an engine that imports starves those that are up."""
    while True:
        await asyncio.sleep(lifecycle.KEEP_INTERVAL_S)
        await asyncio.to_thread(_keep, deployment)
        deployment.put_back()


def _keep(deployment: Deployment) -> None:
    # Without a descriptor the second cannot be done; the first can.
    for name in ("supervisor", *(member.unit.name for member in deployment.members)):
        files.bound(deployment.folder.log(name))
    keep_registered(deployment)


def keep_registered(deployment: Deployment) -> None:
    """One round of what keeps the living in the store."""
    registrations, frontend = deployment.registrations, deployment.frontend
    if registrations is not None and registrations.keep(deployment.living) and frontend:
        # It would find them at its next look at the whole store, and route by half of them.
        deployment.end_to_restart(frontend, "its store was deleted")


async def watch_files(deployment: Deployment) -> None:
    """Note new files when somebody has made some, and once more then: they are mapped a moment later.

    From the first start on: an engine that loads has made most of its files before it is ready.
    """
    traces: tuple[int, frozenset[str]] = (0, frozenset())
    again, is_ours, looked = True, True, 0.0
    while True:
        if not any(member.state.state in _MAKING_FILES for member in deployment.members):
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        elif not is_ours:  # other programs are busy: not at each of their files
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
    """Wait until somebody makes shared memory, or for so long."""
    deadline = time.monotonic() + seconds
    while memory_changed_ns() == changed_ns and time.monotonic() < deadline:
        await asyncio.sleep(_GLANCE_S)


async def watch_answers(deployment: Deployment) -> None:
    """Take what lives and does not answer out of service, and start it again where it stays so."""
    silences = Silences(deployment)
    while True:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        for member, silence in await silences.look():
            if member.state.state not in ("ready", "unresponsive") or member.ended.is_set() or member.renewed:
                continue  # it has ended, or is about to, while others were seen to
            if silence.is_hung:
                deployment.end_to_restart(member, silence.words)
            elif silence.is_silent:
                member.is_deaf = silence.is_deaf
                await deployment.take_out_of_service(member, silence.words)
            elif member.state.state == "unresponsive" and not silence.seconds:
                await deployment.put_back_into_service(member)


async def watch_registrations(deployment: Deployment) -> None:
    """End a worker that lives and is not in the store: it does not register again, and is asked nothing.

    What is known of a registration is put back. This one was lost before anything was.
    """
    missing: dict[str, float] = {}
    while deployment.registrations is not None:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        unseen = await _never_seen(deployment, deployment.registrations)
        now = time.monotonic()
        missing = {name: missing.get(name, now) for name in unseen}
        for name, since in missing.items():
            if now - since > policies.UNREGISTERED_S and unseen[name].state.state == "ready":
                deployment.end_to_restart(unseen[name], "its registration was lost")


async def _never_seen(deployment: Deployment, registrations: Registrations) -> dict[str, Member]:
    """The workers that are ready and that nobody has ever seen in the store, by name."""
    ready = [one for one in deployment.members if one.unit.is_worker and one.state.state == "ready"]
    # The first process mostly registers. To find the others, all of the host's are looked at.
    unseen = [one for one in ready if registrations.has_never_seen(filter(None, [one.state.identity]))]
    owners = await asyncio.to_thread(deployment.processes_of_each, unseen) if unseen else []
    unseen = [one for one, own in zip(unseen, owners, strict=True) if registrations.has_never_seen(own)]
    if deployment.listed and len(unseen) == len(ready):
        return {}  # it is not by the store that the frontend knows them
    return {one.unit.name: one for one in unseen}


async def watch_lists(deployment: Deployment) -> None:
    """A deployment whose frontend does not list the model is not ready, whatever its units say.

    A frontend that does not though every worker is registered is started again: it watches the store's
    folders, and where those were deleted it sees nothing any more.
    """
    since: float | None = None
    frontend = deployment.frontend
    while frontend is not None:
        interval = lifecycle.WATCH_INTERVAL_S if deployment.listed else lifecycle.GATE_INTERVAL_S
        await asyncio.sleep(interval)
        if not await probes.answers(frontend.unit.gate):
            since = None  # frozen, or another one on its way: it says nothing
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
    """Whether all units are ready, and every worker is in the store; never said of an etcd."""
    registrations = deployment.registrations
    if registrations is None or any(member.state.state != "ready" for member in deployment.members):
        return False
    workers = [member for member in deployment.members if member.unit.is_worker]
    owners = await asyncio.to_thread(deployment.processes_of_each, workers)
    return all([await asyncio.to_thread(registrations.has_any, own) for own in owners])
