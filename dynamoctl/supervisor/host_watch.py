"""Keep the record of this host in etcd, by which other hosts compare their versions."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.host import facts
from dynamoctl.monitoring import host_records
from dynamoctl.monitoring.host_records import HostRecord
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say

# Longer than a host was seen to stall (20 s), so that the record of a living host does not expire.
_TTL_S = 30


async def announce(deployment: Deployment) -> None:
    """Write the record of this host, then compare it with the others.

    Of two hosts that start at the same moment, at least one sees the other.

    Raises:
        PreflightError: another host of the deployment has versions that were not run beside these.
    """
    if deployment.plan.discovery == "etcd":
        await asyncio.to_thread(_announce, deployment)


async def keep_announced(deployment: Deployment) -> None:
    """Renew the record, or write it again if it has expired, forever."""
    if deployment.plan.discovery != "etcd":
        return
    mine = await asyncio.to_thread(_mine, deployment)  # an update later on is not what runs
    while True:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        with suppress(DynamoctlError):  # without etcd: the next round tries again
            await asyncio.to_thread(_renew, deployment, mine)


def withdraw(deployment: Deployment) -> None:
    """Delete the record. Without etcd, it expires."""
    if deployment.record_lease:
        with suppress(DynamoctlError):
            deployment.etcd().revoke(deployment.record_lease)


def _mine(deployment: Deployment) -> HostRecord:
    return host_records.of_this_host(deployment.plan, facts.versions())


def _announce(deployment: Deployment) -> None:
    mine = _mine(deployment)
    try:
        _publish(deployment, mine)
    except DynamoctlError as error:
        say(f"the record of this host is not written yet: {error.message}", "WARN")
        return
    entries = deployment.etcd().registrations(host_records.KIND, deployment.namespace) or []
    conflicts = host_records.conflicts(mine, host_records.parse(entries))
    if conflicts:
        raise PreflightError("; ".join(conflicts), host_records.FIX)


def _publish(deployment: Deployment, mine: HostRecord) -> None:
    deployment.record_lease = deployment.etcd().publish(
        deployment.namespace, deployment.start_id, mine.as_json(), _TTL_S
    )


def _renew(deployment: Deployment, mine: HostRecord) -> None:
    if not (deployment.record_lease and deployment.etcd().renew(deployment.record_lease)):
        _publish(deployment, mine)
