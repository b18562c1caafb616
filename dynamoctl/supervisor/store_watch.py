"""Watch LMCache's remote stores: LMCache continues without a dead store and does not report it."""

from __future__ import annotations

import asyncio

from dynamoctl import policies
from dynamoctl.lmcache import remote_stores
from dynamoctl.monitoring import probes
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment, RunningUnit, within


async def watch_stores(deployment: Deployment) -> None:
    """Keep `lost_stores` up to date; restart LMCache's server when a store is back, so that it reconnects."""
    stores = [
        remote_stores.parse(tier.place) for tier in deployment.plan.lmcache_tiers if tier.kind == "remote"
    ]
    while stores:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        lost = []
        for store in stores:
            answers, why = await asyncio.to_thread(probes.store_answers, store)
            if not answers:
                lost.append(
                    f"LMCache's store {store.redacted_url} cannot be used: {why};"
                    " requests are served without it"
                )
        if lost != deployment.state.lost_stores:
            if set(deployment.state.lost_stores) - set(lost):
                await _renew_cache_server(deployment)
            deployment.state.lost_stores = lost
            deployment.degrade_or_recover()
            deployment.save()


async def _renew_cache_server(deployment: Deployment) -> None:
    """Restart LMCache's server, which does not reconnect to a store that was unavailable (lmcache 0.5.3).

    The workers find the new server by themselves. The content of its CPU memory is lost.
    """
    for member in deployment.members:
        if member.unit.role != "cache":
            continue
        await _until_back(deployment, member)  # a server that is starting may have missed the store
        if member.state.state == "ready":
            await deployment.renew(member, policies.GRACE_READY_S)
            await _until_back(deployment, member)
            # Until then the workers have not found the new server and store nothing.
            await asyncio.sleep(3 * SERVER_HEARTBEAT_S)


async def _until_back(deployment: Deployment, member: RunningUnit) -> None:
    """Wait until a unit is ready or the deployment has failed."""
    while not await within(lifecycle.WATCH_INTERVAL_S, member.ready):
        if member.state.state == "failed" and deployment.state.state == "failed":
            return
