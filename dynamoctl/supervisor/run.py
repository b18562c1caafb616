"""Run one plan: start the units in order, wait at their gates, watch, restart, stop.

One asyncio loop; once all units are up, it has one task per unit and one per watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
from collections.abc import Awaitable

from dynamoctl.errors import DynamoctlError, InternalError, LeftoverError
from dynamoctl.processes import process_control
from dynamoctl.supervisor import (
    card_watch,
    control,
    draining,
    etcd_watch,
    failures,
    host_watch,
    lifecycle,
    restarting,
    standby,
    starting,
    stopping,
    store_watch,
    watching,
)
from dynamoctl.supervisor.deployment import Deployment, within
from dynamoctl.supervisor.journal import say

# Tasks that run from the first start on.
_KEEPS = (watching.keep_up, watching.watch_files, host_watch.keep_announced)
# Tasks that run once all units are up.
_WATCHES = (
    watching.watch_answers,
    watching.watch_registrations,
    watching.watch_lists,
    store_watch.watch_stores,
    etcd_watch.watch_etcd,
    card_watch.watch_cards,
    standby.keep_ready,
)


async def run(deployment: Deployment) -> int:
    """Start the deployment, watch it until SIGTERM or SIGINT, and stop it.

    Returns:
        The exit code of the supervisor process.
    """
    process_control.become_subreaper()
    process_control.raise_descriptor_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    loop.add_signal_handler(signal.SIGCHLD, deployment.reap)
    deployment.folder.write_state(deployment.state)  # `up` waits for it, so a full disk is an error here
    with contextlib.suppress(OSError):
        deployment.folder.socket.unlink()
    os.chdir(deployment.folder.path)  # a socket's path has at most 107 bytes (unix(7))
    listener = await control.listen(deployment)
    keep_tasks = [asyncio.ensure_future(watching.surely(keep, deployment)) for keep in _KEEPS]
    try:
        failure = await _until_stopped(_live(deployment), stop)
    finally:
        listener.close()
        for task in keep_tasks:
            task.cancel()
    return await _end(deployment, failure, stop)


async def _live(deployment: Deployment) -> None:
    """Bring the deployment up, then watch it forever."""
    try:
        async with asyncio.timeout(deployment.plan.timeout_s):
            await host_watch.announce(deployment)
            await starting.bring_up(deployment)
            # From here on, no registration can be lost. If descriptors run out, the next round reads them.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(watching.keep_registered, deployment)
    except TimeoutError:
        raise failures.too_late(deployment) from None
    failures.require_all(deployment)
    deployment.state.state = "ready"
    deployment.state.ready_at = time.time()
    deployment.save()
    async with asyncio.TaskGroup() as group:
        deployment.group = group
        for member in deployment.members:
            restarting.watch_over(deployment, member)
        for watch in _WATCHES:
            group.create_task(watching.surely(watch, deployment))


async def _until_stopped(life: Awaitable[None], stop: asyncio.Event) -> DynamoctlError | None:
    """Run `life` until it fails or a stop is requested; return the failure, if any."""
    living = asyncio.ensure_future(life)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((living, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    failure: DynamoctlError | None = None
    if not living.done():
        living.cancel()
    try:
        await living
    except asyncio.CancelledError:
        pass
    except Exception as error:
        failure = _failure(error)
    return None if stop.is_set() else failure


async def _end(deployment: Deployment, failure: DynamoctlError | None, stop: asyncio.Event) -> int:
    state = deployment.state
    if failure is not None:
        state.error = failure.as_json()
        say(f"{failure.message}\n{failure.hint}", "ERROR")
        if deployment.keep:
            state.state = "failed"
            deployment.save()
            while not await within(lifecycle.KEEP_INTERVAL_S, stop):
                deployment.put_back()
    state.state = "stopping"
    deployment.save()
    await draining.drain(deployment)
    left = await stopping.take_all_down(deployment)
    await asyncio.to_thread(host_watch.withdraw, deployment)
    state.state = "failed" if failure is not None or left else "stopped"
    if left:
        leftover = LeftoverError("could not remove: " + "; ".join(left), "`dynamoctl down` tries again")
        if state.error is None:
            state.error = leftover.as_json()
        else:
            state.warnings.append(leftover.message)
    deployment.save()
    return failure.exit_code if failure is not None else LeftoverError.exit_code if left else 0


def _failure(error: Exception) -> DynamoctlError:
    """The error that the user sees. An unexpected error ends the whole deployment, not only the supervisor,
    because no worker may run without one."""
    own_errors = _own_errors(error)
    if own_errors:
        return own_errors[0]
    say("".join(traceback.format_exception(error)), "ERROR")
    return InternalError(f"the supervisor failed: {error!r}", "please report this, with its log")


def _own_errors(error: BaseException) -> list[DynamoctlError]:
    if isinstance(error, BaseExceptionGroup):
        return [own for each in error.exceptions for own in _own_errors(each)]
    return [error] if isinstance(error, DynamoctlError) else []
