"""Watch etcd, for a deployment that uses it for discovery."""

from __future__ import annotations

import asyncio

from dynamoctl.errors import DynamoctlError
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.running_unit import RunningUnit

_WAITING = "waiting for etcd"


async def watch_etcd(deployment: Deployment) -> None:
    """Keep `lost_etcd` and the known leases up to date, forever.

    Without etcd, new processes are not discovered, and a process that loses its lease exits.
    """
    while deployment.leases is not None:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        if await _look(deployment):
            await asyncio.to_thread(deployment.leases.learn, deployment.living)


async def until_it_answers(deployment: Deployment, member: RunningUnit) -> bool:
    """Wait until etcd answers: a unit that starts without it exits after two minutes.

    Returns:
        Whether it was necessary to wait.
    """
    waited = False
    while deployment.plan.discovery == "etcd" and not await _look(deployment):
        waited = True
        if member.state.phase != _WAITING:
            member.state.phase = _WAITING
            deployment.save()
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
    return waited


async def _look(deployment: Deployment) -> bool:
    """Check whether etcd answers, and record the result in the state."""
    answers, why = await asyncio.to_thread(_ask, deployment)
    lost = ""
    if not answers:
        lost = f"etcd at {', '.join(deployment.plan.etcd_endpoints)} cannot be used: {why}"
    if lost != deployment.state.lost_etcd:
        deployment.state.lost_etcd = lost
        deployment.degrade_or_recover()
        deployment.save()
    return answers


def _ask(deployment: Deployment) -> tuple[bool, str]:
    try:
        return deployment.etcd().answers()
    except DynamoctlError as error:
        return False, error.message
