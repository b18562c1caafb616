"""Let the requests in flight finish before the workers get SIGTERM.

With Dynamo 1.6, a vLLM worker ends its requests as soon as its grace period after SIGTERM is over, and an
idle worker waits out that period as well (ai-dynamo==1.6.1:dynamo/common/utils/graceful_shutdown.py). So the
grace period is 0, and the supervisor waits until the engines have no requests, for up to `drain_s`. A mocker
drains after SIGTERM, for up to `drain_s` as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from dynamoctl.monitoring import observe
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit

_INTERVAL_S = 0.2
# A request that the frontend has just handed over is not yet in an engine's figures.
_LOOKS = 2


async def drain(deployment: Deployment) -> None:
    """Take the ready vLLM workers out of discovery, and wait for their requests."""
    workers = [one for one in deployment.members if one.unit.is_worker and one.state.state == "ready"]
    await drain_workers(deployment, workers)


async def drain_workers(deployment: Deployment, workers: Sequence[RunningUnit]) -> None:
    """Take these vLLM workers out of discovery, and wait for their requests."""
    if not workers or deployment.plan.engine != "vllm" or deployment.plan.drain_s <= 0:
        return
    await empty(deployment, workers)


async def empty(deployment: Deployment, workers: Sequence[RunningUnit]) -> float:
    """Take these workers out of discovery, and wait for their requests, up to `drain_s`.

    Returns:
        How many requests are left.
    """
    until = time.monotonic() + deployment.plan.drain_s
    with contextlib.suppress(OSError):  # no descriptors left: new requests may come
        await asyncio.to_thread(learn, deployment)
        await asyncio.to_thread(_withhold, deployment, workers)
    idle = 0
    while (requests := await _requests(workers)) or idle < _LOOKS:
        idle = 0 if requests else idle + 1
        if time.monotonic() > until:
            if requests:
                say(f"requests still in flight after --drain: {requests:g}", "WARN")
            break
        await asyncio.sleep(_INTERVAL_S)
    return requests


def learn(deployment: Deployment) -> None:
    """See what the workers have registered: one that has just come may be unknown yet."""
    if deployment.registrations is not None:
        deployment.registrations.keep(deployment.living)
    if deployment.leases is not None:
        deployment.leases.learn(deployment.living)


def _withhold(deployment: Deployment, workers: Sequence[RunningUnit]) -> None:
    for processes in deployment.processes_of_each(workers):
        deployment.withhold(processes)


async def _requests(workers: Sequence[RunningUnit]) -> float:
    """The requests that these workers compute or hold back; one that does not answer has none."""
    found = await asyncio.gather(*(observe.requests_of(worker.unit) for worker in workers))
    return sum(one.running for one in found if one is not None)
