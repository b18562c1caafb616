"""Units that come to a deployment that is up, and units that leave it. No request is lost by either.

A unit that comes counts when its gate has passed and a request has come back through it. One that goes is out
of discovery first, has the time of `--drain` for its requests, and is stopped then. What is left of them by
then is moved to another worker (`--migration-limit`), or fails.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from dynamoctl import policies
from dynamoctl.errors import LeftoverError, NotReadyError
from dynamoctl.host.files import Files
from dynamoctl.host.processes import Identity
from dynamoctl.humanize import duration
from dynamoctl.logs import files
from dynamoctl.monitoring import observe, probes
from dynamoctl.planner.plan import Unit
from dynamoctl.processes import cleanup, process_control
from dynamoctl.supervisor import draining, gpu_memory, lifecycle, restarting, standby, starting, stopping
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit, new_state

_Result = TypeVar("_Result")
Told = Callable[[str], None]
_INTERVAL_S = 0.2
# Completions that have to come back from a new worker before it counts, for each worker of its role: with
# round-robin, one in as many reaches it. A router that goes by other rules may send it none.
_PROOFS_PER_WORKER = 3
# So many of them may fail in a row: a worker's first request may, while NIXL's ends learn of each other.
_MOST_FAILURES = 5


async def add(deployment: Deployment, unit: Unit, told: Told) -> None:
    """Start a unit beside the others, and count it when a request has come back through it.

    Raises:
        NotReadyError: it has not come so far. Nothing of it is left.
    """
    new = RunningUnit(unit, new_state(unit), f"{deployment.start_id}/{unit.name}")
    await _join(deployment, new, lambda what: told(f"{unit.name}: {what}"))


async def replace(deployment: Deployment, old: RunningUnit, unit: Unit, told: Told) -> None:
    """Start a unit in place of another one, and end that one when the new one serves.

    Raises:
        NotReadyError: the new one does not serve. Nothing of it is left, and the old one serves on.
        LeftoverError: a process of the old one cannot be ended.
    """
    began, name, new = time.monotonic(), old.unit.name, old.successor(unit)
    await _join(deployment, new, lambda what: told(f"{name}: its successor is {what}"), before=old)
    await remove(deployment, old, told)
    new.take_over(old)
    with suppress(OSError):  # on a full disk, the log keeps its other name
        deployment.folder.log(new.place).replace(deployment.folder.log(name))
    deployment.save()
    told(f"{name}: replaced after {duration(time.monotonic() - began)}")


async def _join(
    deployment: Deployment, member: RunningUnit, told: Told, before: RunningUnit | None = None
) -> None:
    began = time.monotonic()
    member.state.service = "joining"
    deployment.enlist(member, before)
    say(f"{member.unit.name} is added by request")
    told("starting")
    reading = asyncio.ensure_future(starting.read_logs(deployment))
    try:
        async with asyncio.timeout(deployment.plan.timeout_s), gpu_memory.in_turn(deployment, member):
            await _start(deployment, member)
    except (NotReadyError, TimeoutError, OSError) as error:
        await _leave_again(deployment, member)
        raise _not_joined(deployment, member, error) from None
    finally:
        reading.cancel()
    member.state.service = ""
    restarting.watch_over(deployment, member)
    told(f"ready after {duration(time.monotonic() - began)}")


async def _start(deployment: Deployment, member: RunningUnit) -> None:
    log = deployment.folder.log(member.unit.name)
    with suppress(OSError):  # of a unit of this name that has left
        log.replace(files.set_aside(log))
    starting.start(deployment, member)
    await starting.gate(deployment, member)
    if member.unit.is_worker and deployment.frontend is not None:
        member.state.phase = "answering a first request"
        deployment.save()
        await _answers(deployment, member)
        member.state.phase = ""
    if member.ended.is_set():
        raise NotReadyError(f"{member.unit.name} has ended")


async def _answers(deployment: Deployment, member: RunningUnit) -> None:
    """Ask until a request has come back through this worker.

    Raises:
        NotReadyError: it has ended, or requests fail again and again.
    """
    plan = deployment.plan
    await _registers(deployment, member)
    peers = sum(one.unit.role == member.unit.role for one in deployment.members)
    asked = failures = 0
    # Requests of clients count as well. Without a figure, the worker is known by its gate alone.
    while asked < _PROOFS_PER_WORKER * peers:
        if member.ended.is_set():
            raise NotReadyError(f"{member.unit.name} ended as it got its first request")
        requests = await observe.requests_of(member.unit)
        if requests is not None and requests.done > 0:
            return
        done, why = await probes.complete(plan.endpoint, plan.model, f"{asked} and {failures} is")
        asked, failures = (asked + 1, 0) if done else (asked, failures + 1)
        if failures > _MOST_FAILURES:
            raise NotReadyError(f"requests fail since {member.unit.name} is there: {why}")
        if not done:
            await asyncio.sleep(lifecycle.GATE_INTERVAL_S)
    say(f"{member.unit.name} has had no request yet", "WARN")


async def _registers(deployment: Deployment, member: RunningUnit) -> None:
    """Wait until the new worker is in discovery: without that it passes its gate, and gets no requests.

    Raises:
        NotReadyError: it has ended, or is not there in time.
    """
    until = time.monotonic() + policies.UNREGISTERED_S
    while not await asyncio.to_thread(_is_registered, deployment, member):
        if member.ended.is_set():
            raise NotReadyError(f"{member.unit.name} ended before it was registered")
        if time.monotonic() > until:
            waited = duration(policies.UNREGISTERED_S)
            raise NotReadyError(f"{member.unit.name} is ready, and not registered after {waited}")
        await asyncio.sleep(lifecycle.GATE_INTERVAL_S)


def _is_registered(deployment: Deployment, member: RunningUnit) -> bool:
    """Whether a worker is in discovery, as far as the supervisor can see."""
    draining.learn(deployment)
    own = deployment.processes(member)
    known = deployment.registrations or deployment.leases
    return known is None or known.has_any(own)


async def _leave_again(deployment: Deployment, member: RunningUnit) -> None:
    """Remove a unit that has not come so far; its log stays."""
    with suppress(LeftoverError):  # it stays in the state, so that `down` names what is left
        await remove(deployment, member, lambda _: None, keep_log=True)


def _not_joined(deployment: Deployment, member: RunningUnit, error: Exception) -> NotReadyError:
    log = f"log: {deployment.folder.log(member.unit.name)}"
    if isinstance(error, NotReadyError):
        return NotReadyError(error.message, error.hint or log)
    if isinstance(error, TimeoutError):
        waited = duration(deployment.plan.timeout_s)
        return NotReadyError(f"{member.unit.name} was not ready within {waited}", log)
    return NotReadyError(f"{member.unit.name} cannot be started: {error}", "try again")


async def remove(deployment: Deployment, member: RunningUnit, told: Told, keep_log: bool = False) -> None:
    """Take a unit out of discovery, let it finish its requests, stop it, and remove what is left of it.

    Raises:
        LeftoverError: a process of it cannot be ended.
    """
    name = member.unit.name
    member.state.service = "leaving"
    deployment.save()
    if member.keeper is not None:
        member.keeper.cancel()
        await asyncio.wait([member.keeper])
    standby.end(member)
    left_requests = await empty(deployment, member, told)
    own: Files = {}
    if left_requests and deployment.plan.engine == "vllm":
        # Told to stop, it would answer them with an error. The frontend moves those of one that is gone.
        own |= await _while_starved(lambda: asyncio.to_thread(deployment.files_now, [member]))
        await _while_starved(lambda: _kill(member))
    if left := await _while_starved(lambda: _stop(deployment, member, own)):
        raise LeftoverError(f"could not remove {name}: {'; '.join(left)}", "`dynamoctl down` tries again")
    deployment.dismiss(member)
    still = await _while_starved(lambda: asyncio.to_thread(_clear_away, deployment, member, own))
    deployment.files = {
        path: file for path, file in deployment.files.items() if path not in own or path in still
    }
    deployment.state.record_files(deployment.files)
    if not keep_log:
        log = deployment.folder.log(name)
        with suppress(OSError):
            log.replace(files.set_aside(log))
    deployment.save()
    told(f"{name}: removed")


async def _while_starved(work: Callable[[], Awaitable[_Result]]) -> _Result:
    """Try again while the host has no descriptors: what has begun to leave cannot stay."""
    while True:
        try:
            return await work()
        except OSError as error:
            say(f"cannot remove a unit yet: {error}", "WARN")
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


async def _kill(member: RunningUnit) -> None:
    if member.state.identity is not None:
        process_control.send(member.state.identity, signal.SIGKILL)


async def _stop(deployment: Deployment, member: RunningUnit, own: Files) -> list[str]:
    """Stop a unit; return what stays. `own` gets the files that it would leave."""
    own |= await asyncio.to_thread(deployment.files_now, [member])
    known = dict(deployment.files)
    left = await stopping.stop(deployment, member)
    own |= {path: file for path, file in deployment.files.items() if path not in known}
    return left


def _clear_away(deployment: Deployment, member: RunningUnit, own: Files) -> set[str]:
    """Remove registrations, files and the folder of a unit that has ended; return the files that remain."""
    deployment.forget_the_dead()
    cleanup.remove_folders(deployment.folder.work(member.place))
    return set(cleanup.remove_files(own))


async def empty(deployment: Deployment, member: RunningUnit, told: Told) -> float:
    """Keep new requests away from a worker, and wait for those that it has, up to `--drain`.

    Returns:
        How many are left.
    """
    if not member.unit.is_worker or member.state.state not in ("ready", "unresponsive"):
        return 0.0
    bound = duration(deployment.plan.drain_s)
    member.state.phase = f"draining, for up to {bound}"
    deployment.save()
    told(f"{member.unit.name}: draining, for up to {bound}")
    left = await draining.empty(deployment, [member])
    if left:
        told(f"{member.unit.name}: {left:g} requests are still there after {bound}")
    return left


async def renew(deployment: Deployment, member: RunningUnit, unit: Unit, told: Told) -> None:
    """End a unit, start it again in its place, perhaps with other settings, and wait until it serves.

    Raises:
        NotReadyError: it cannot be restarted now, or has not come back. With other settings, it has got its
            old ones back.
    """
    before, old = member.state.identity, member.unit
    began = time.monotonic()
    say(f"{unit.name} is restarted by request")
    told(f"{unit.name}: restarting")
    await empty(deployment, member, told)
    member.become(unit)
    try:
        await deployment.renew(member, policies.stop_grace_s(deployment.plan.drain_s))
    except OSError as error:
        member.become(old)
        member.state.phase = ""
        with suppress(OSError):
            await deployment.put_back_into_service(member)
        raise NotReadyError(f"{unit.name} cannot be restarted: {error}", "try again") from None
    try:
        await _until_it_serves(deployment, member, before, is_new=unit is not old)
    except NotReadyError:
        if unit is not old:
            member.become(old)
            with suppress(OSError):  # one that is not ready in time lives
                await deployment.renew(member, policies.GRACE_LOADING_S)
            await _until_it_serves(deployment, member, member.state.identity, is_new=False)
        raise
    told(f"{unit.name}: ready again after {duration(time.monotonic() - began)}")


async def _until_it_serves(
    deployment: Deployment, member: RunningUnit, before: Identity | None, is_new: bool
) -> None:
    """Wait for a process other than the one before: that may have ended by itself meanwhile.

    Args:
        is_new: whether its settings are new: then its first start must succeed.
    """
    until = time.monotonic() + deployment.plan.timeout_s
    while member.state.identity == before or not (member.ready.is_set() and deployment.listed):
        has_failed = deployment.state.state == "failed"
        is_wrong = is_new and member.state.identity != before and member.state.state in ("failed", "backoff")
        if has_failed or is_wrong or time.monotonic() > until:
            waited = duration(deployment.plan.timeout_s)
            why = f"is not back after {waited}"
            if has_failed or is_wrong:
                why = "has ended too often" if has_failed else f"ended as it started ({member.state.exit})"
            raise NotReadyError(
                f"{member.unit.name} {why}", f"log: {deployment.folder.log(member.unit.name)}"
            )
        await asyncio.sleep(_INTERVAL_S)
