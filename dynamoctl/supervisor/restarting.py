"""Start a unit that has ended again, with pauses, until there have been too many."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from dynamoctl.errors import NotReadyError
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.supervisor import etcd_watch, failures, lifecycle, starting
from dynamoctl.supervisor.deployment import Deployment, Member
from dynamoctl.supervisor.journal import say
from dynamoctl.words import duration


async def keep_alive(deployment: Deployment, member: Member) -> None:
    """Restart the unit each time it ends; returns when it has ended too often."""
    while True:
        await member.ended.wait()
        deployment.degrade()
        error: NotReadyError | None = failures.died(deployment, member)
        member.ready.clear()
        tries = 0
        while error is not None:
            deployment.degrade()
            deployment.save()
            await _patiently(deployment.kill, member)
            await _patiently(deployment.forget_the_dead)
            renewed, member.renewed = member.renewed, False
            if await etcd_watch.until_it_answers(deployment, member):
                renewed = True  # without its lease in etcd it ends by itself: no failure of its own
            if not renewed and not lifecycle.may_restart(member.restarts, time.monotonic(), tries):
                _give_up(deployment, member, error, tries)
                return
            deployment.follow(member, "retry")
            wait = 0.0
            if not renewed:
                wait = lifecycle.backoff_s(len(member.restarts), random.random())  # noqa: S311  (jitter)
            if member.unit.role == "cache":
                # Away for so long that every worker misses it: else they would not register again.
                wait += 2 * SERVER_HEARTBEAT_S
            member.state.phase = f"restarting in {duration(wait)}"
            deployment.save()
            await asyncio.sleep(wait)
            if not renewed:
                member.restarts.append(time.monotonic())
            tries += 1
            member.state.restarts += 1
            error = await _restart(deployment, member)


async def _restart(deployment: Deployment, member: Member) -> NotReadyError | None:
    """One more try: back at its gate, or why not."""
    reading = asyncio.ensure_future(starting.read_logs(deployment))
    error: NotReadyError
    try:
        async with asyncio.timeout(deployment.plan.timeout_s):
            starting.start(deployment, member)
            # Until it is seen: its gate opens before the frontend hears of it.
            deployment.listed = deployment.frontend is None
            await starting.gate(deployment, member)
    except TimeoutError:
        error = failures.too_late(deployment)
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


def _give_up(deployment: Deployment, member: Member, error: NotReadyError, tries: int) -> None:
    deployment.follow(member, "give_up")
    window = f" within {duration(lifecycle.RESTART_WINDOW_S)}"
    failure = NotReadyError(
        f"{member.unit.name} ended {lifecycle.RESTART_LIMIT + 1} times"
        f"{window if tries < lifecycle.RESTART_LIMIT else ''}; the last time: {error.message}",
        error.hint,
    )
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
