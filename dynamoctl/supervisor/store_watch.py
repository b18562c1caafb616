"""Watch LMCache's remote stores: LMCache continues without a dead store and does not report it."""

from __future__ import annotations

import asyncio
import time

from dynamoctl import policies
from dynamoctl.lmcache import remote_stores
from dynamoctl.monitoring import probes
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment, within
from dynamoctl.supervisor.running_unit import RunningUnit

_WAITING = "waiting for LMCache's store"
# A connection survives a store that is frozen or cut off for this long: Redis looks for dead clients after
# 300 s (`tcp-keepalive`), and Linux sends again for minutes.
_CONNECTION_SURVIVES_S = 60.0


async def watch_stores(deployment: Deployment) -> None:
    """Keep `lost_stores` up to date; restart LMCache's server when it has lost its connection to a store.

    That is when a store can be used again, or when it was started anew, even if it was not seen away. A Redis
    that was frozen or cut off for a short time keeps its connections, and LMCache waits for its answers.
    """
    last_lost_at, away_since, was_silent = 0.0, 0.0, True
    runs: dict[str, str] = {}
    while _stores(deployment):
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
        lost = await _lost(deployment)
        if lost:
            last_lost_at = time.time()
            away_since = away_since or last_lost_at
            was_silent = was_silent and all(any(why in text for why in probes.SILENT) for text in lost)
        found = {} if lost else await _runs(deployment)
        is_anew = any(runs.get(url, run) != run for url, run in found.items())
        is_back = len(lost) < len(deployment.state.lost_stores)
        is_same = was_silent and len(found) == len(_stores(deployment)) and found == runs
        if is_anew or (is_back and not (is_same and time.time() - away_since < _CONNECTION_SURVIVES_S)):
            await _renew_cache_server(deployment, last_lost_at if lost or is_back else time.time())
        runs |= found
        if not lost:
            away_since, was_silent = 0.0, True
        _record(deployment, lost)


async def until_they_answer(deployment: Deployment, member: RunningUnit) -> None:
    """Wait until LMCache's server can start: without its store it says healthy, and requests hang.

    Without the server, requests are served without a cache.
    """
    while member.unit.role == "cache" and (lost := await _lost(deployment)):
        if member.state.phase != _WAITING:
            member.state.phase = _WAITING
            deployment.save()
        _record(deployment, lost)
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)
    if member.state.phase == _WAITING:
        member.state.phase = ""


def _stores(deployment: Deployment) -> list[remote_stores.Store]:
    return [
        remote_stores.parse(tier.place) for tier in deployment.plan.lmcache_tiers if tier.kind == "remote"
    ]


async def _lost(deployment: Deployment) -> list[str]:
    """The stores that cannot be used, each with the reason."""
    lost = []
    for store in _stores(deployment):
        answers, why = await asyncio.to_thread(probes.store_answers, store)
        if not answers:
            lost.append(
                f"LMCache's store {store.redacted_url} cannot be used: {why}; requests are served without it"
            )
    return lost


async def _runs(deployment: Deployment) -> dict[str, str]:
    """The stores that say in which run they are: URL -> run."""
    found = {}
    for store in _stores(deployment):
        if run := await asyncio.to_thread(probes.store_run, store):
            found[store.url] = run
    return found


def _record(deployment: Deployment, lost: list[str]) -> None:
    if lost != deployment.state.lost_stores:
        deployment.state.lost_stores = lost
        deployment.degrade_or_recover()
        deployment.save()


async def _renew_cache_server(deployment: Deployment, last_lost_at: float) -> None:
    """Restart LMCache's server: lmcache 0.5.6 does not reconnect to a store that closed its connection.

    The workers find the new server by themselves. The content of its CPU memory is lost.

    Args:
        last_lost_at: when the store was last seen to be away; a server that was started after that has it.
    """
    for member in deployment.members:
        # One that waits to start, or was started since, has the store.
        has_it = member.state.state == "backoff" or member.state.started_at > last_lost_at
        if member.unit.role != "cache" or has_it:
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
