"""Start a unit that has ended again, with pauses, until there have been too many."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from dynamoctl import policies
from dynamoctl.errors import NotReadyError
from dynamoctl.humanize import duration
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.supervisor import etcd_watch, failures, gpu_memory, lifecycle, starting, store_watch
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit


def watch_over(deployment: Deployment, member: RunningUnit) -> None:
    """Restart a unit that is up when it ends, from now on."""
    assert deployment.group is not None
    member.keeper = deployment.group.create_task(keep_alive(deployment, member))


async def keep_alive(deployment: Deployment, member: RunningUnit) -> None:
    """Restart the unit each time it ends; returns when it has ended too often."""
    while True:
        await member.ended.wait()
        served_s = time.monotonic() - member.ready_since
        deployment.degrade()
        error: NotReadyError | None = failures.died(deployment, member)
        member.ready.clear()
        tries = starved = 0
        is_restart = False  # whether a restart has failed, and not what had been up
        while error is not None:
            deployment.degrade()
            deployment.save()
            await _patiently(deployment.kill, member)
            await _patiently(deployment.forget_the_dead)
            # What had been up and lost its lease in etcd ends by itself, also where etcd is back by now.
            is_failure = not (member.renewed or (not is_restart and member.lost_lease()))
            member.renewed = False
            if await etcd_watch.until_it_answers(deployment, member):
                is_failure = False  # without its lease in etcd it ends by itself
            is_starved = is_failure and is_restart and _lacked_gpu_memory(member)
            if is_starved and starved < policies.STARVED_LIMIT:
                starved += 1
                is_failure = False  # it was up with this plan: who has its memory now is waited for below
            if is_failure and not lifecycle.may_restart(member.restarts, time.monotonic(), tries):
                _give_up(deployment, member, _too_often(member, error, tries))
                return
            deployment.follow(member, "retry")
            await asyncio.sleep(
                _pause(deployment, member, is_failure or is_starved, 0.0 if is_restart else served_s)
            )
            await store_watch.until_they_answer(deployment, member)
            if is_failure:
                member.restarts.append(time.monotonic())
                tries += 1
            is_restart = True
            try:
                error = await _restart_with_memory(deployment, member)
            except NotReadyError as lacking:
                _give_up(deployment, member, lacking)
                return


async def _restart_with_memory(deployment: Deployment, member: RunningUnit) -> NotReadyError | None:
    """One more try, once its GPU memory can be had: back at its gate, or why not.

    Raises:
        NotReadyError: the memory cannot be had.
    """
    while True:
        await gpu_memory.until_free(deployment, member)
        async with gpu_memory.in_turn(deployment, member):
            if not await gpu_memory.is_short(deployment, member):  # who was before it may have taken it
                member.state.restarts += 1
                return await _restart(deployment, member)


def _pause(deployment: Deployment, member: RunningUnit, backs_off: bool, served_s: float) -> float:
    """Seconds until the next try; `status` shows them."""
    wait = 0.0
    if backs_off:
        now = time.monotonic()
        recent = sum(now - then < policies.RESTART_WINDOW_S for then in member.restarts)
        wait = lifecycle.backoff_s(recent, random.random(), served_s)  # noqa: S311  (jitter)
    if member.unit.role == "cache":
        # Away for so long that every worker misses it: else they would not register again.
        wait += 2 * SERVER_HEARTBEAT_S
    member.state.phase = f"restarting in {duration(wait)}"
    deployment.save()
    return wait


def _lacked_gpu_memory(member: RunningUnit) -> bool:
    if member.log is None or not member.unit.gpus:
        return False
    member.log.read()
    return bool(member.log.no_gpu_memory)


async def _restart(deployment: Deployment, member: RunningUnit) -> NotReadyError | None:
    """One more try: back at its gate, or why not."""
    reading = asyncio.ensure_future(starting.read_logs(deployment))
    patience_s = lifecycle.restart_patience_s(
        member.start_s, deployment.plan.hang_timeout_s, deployment.plan.timeout_s
    )
    error: NotReadyError
    try:
        async with asyncio.timeout(patience_s):
            starting.start(deployment, member)
            # Until it is seen: its gate opens before the frontend hears of it.
            deployment.listed = deployment.frontend is None
            await starting.gate(deployment, member)
    except TimeoutError:
        error = NotReadyError(
            f"{member.unit.name} was not ready {duration(patience_s)} after its restart",
            f"log: {deployment.folder.log(member.unit.name)}",
        )
    except NotReadyError as failure:
        error = failure
    except OSError as failure:  # no descriptors left, say
        error = NotReadyError(f"{member.unit.name} cannot be watched: {failure}")
    else:
        deployment.degrade_or_recover()
        deployment.save()
        return None
    finally:
        reading.cancel()
    if member.state.state in ("starting", "ready"):  # it lives, and cannot be used
        say(error.message, "WARN")
        deployment.follow(member, "died")
    return error


def _too_often(member: RunningUnit, error: NotReadyError, tries: int) -> NotReadyError:
    window = f" within {duration(policies.RESTART_WINDOW_S)}"
    return NotReadyError(
        f"{member.unit.name} ended {policies.RESTART_LIMIT + 1} times"
        f"{window if tries < policies.RESTART_LIMIT else ''}; the last time: {error.message}",
        error.hint,
    )


def _give_up(deployment: Deployment, member: RunningUnit, failure: NotReadyError) -> None:
    deployment.follow(member, "give_up")
    say(failure.message, "ERROR")
    deployment.state.state = "failed"
    deployment.state.error = failure.as_json()
    deployment.save()


async def _patiently(do: Callable[..., object], *arguments: object) -> None:
    """Until the host lets us: what has to be done before a unit may start again."""
    while True:
        try:
            await asyncio.to_thread(do, *arguments)
            return
        except OSError as error:
            say(f"{do.__name__}: {error}", "WARN")
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
