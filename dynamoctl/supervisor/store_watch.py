"""LMCache goes on without a remote store that has died, and says nothing: so the store is asked."""

from __future__ import annotations

import asyncio

from dynamoctl import policies
from dynamoctl.lmcache import remote_stores
from dynamoctl.monitoring import probes
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment, Member, within


async def watch_stores(deployment: Deployment) -> None:
    """Say which stores cannot be used; have LMCache's server connect again to those that are back."""
    remote = [
        remote_stores.parse(tier.place) for tier in deployment.plan.lmcache_tiers if tier.kind == "remote"
    ]
    while remote:
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        lost = []
        for store in remote:
            answers, why = await asyncio.to_thread(probes.store_answers, store)
            if not answers:
                lost.append(f"LMCache's store {store.shown} cannot be used: {why}; requests go on without")
        if lost != deployment.state.lost_stores:
            if set(deployment.state.lost_stores) - set(lost):
                await _renew_cache_server(deployment)
            deployment.state.lost_stores = lost
            deployment.degrade_or_recover()
            deployment.save()


async def _renew_cache_server(deployment: Deployment) -> None:
    """LMCache's server does not connect again to a store that was away (0.5.3), and does not say so.

    A new one does. The workers find it by themselves; what was in CPU memory is lost.
    """
    for member in deployment.members:
        if member.unit.role != "cache":
            continue
        await _until_back(deployment, member)  # one that is starting may have started without the store
        if member.state.state == "ready":
            await deployment.renew(member, policies.GRACE_READY_S)
            await _until_back(deployment, member)
            # Until then the workers have not seen it, and keep nothing.
            await asyncio.sleep(3 * SERVER_HEARTBEAT_S)


async def _until_back(deployment: Deployment, member: Member) -> None:
    """Until it is ready, or has been given up."""
    while not await within(lifecycle.WATCH_INTERVAL_S, member.ready):
        if member.state.state == "failed" and deployment.state.state == "failed":
            return
