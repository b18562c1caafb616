"""Prove that LMCache gives back what it was given, and empty it."""

from __future__ import annotations

import asyncio
import time

from dynamoctl.answers.cache import CacheProbe
from dynamoctl.errors import DynamoctlError, NotReadyError, SpecError
from dynamoctl.monitoring import cache_probe, loopback_http, observe
from dynamoctl.monitoring.loopback_http import NoAnswerError
from dynamoctl.operations.serving import serving_plan
from dynamoctl.planner.plan import DeploymentPlan

# How long the prompt is, in chunks of LMCache's.
_CHUNKS = 3.0
# For how long the server is asked again to let go of what requests use, and what a store takes to end.
_IN_USE_S, _SETTLE_S = 5.0, 0.5
_LOAD = ("requests_running", "requests_waiting")


def check(name: str) -> CacheProbe:
    """Ask one new prompt again; in between, empty the engines' own prefix caches.

    Raises:
        SpecError: no such deployment, one without LMCache, or one on several hosts.
        NotReadyError: it does not serve now, or LMCache gave nothing back, or something else.
    """
    plan = _running(name)
    if plan.elsewhere:
        raise SpecError(
            f"'{name}' is on several hosts: what their engines keep themselves cannot be emptied from here",
            "status on the host of the prefill workers counts LMCache's hits",
        )

    result = asyncio.run(cache_probe.run(plan, _CHUNKS))
    if not result.hit_tokens:
        raise NotReadyError(
            f"LMCache of '{name}' gave none of {result.prompt_tokens} tokens back"
            + ("" if result.prefix_cache_cleared else "; the engines' own prefix caches may have had them"),
            f"see: dynamoctl status -n {name}, and dynamoctl logs -n {name}",
        )
    if result.same_answer is False:
        raise NotReadyError(f"'{name}': {cache_probe.WRONG}", f"take it down, and {cache_probe.FIX}")
    return result


def clear(name: str) -> list[str]:
    """Empty LMCache's CPU memory and the engines' prefix caches.

    Returns:
        The tiers that keep what they have.

    Raises:
        SpecError: no such deployment, or LMCache is in the engines, which have no way to empty it.
    """
    plan = _running(name)
    if plan.lmcache != "mp":
        raise SpecError(
            f"LMCache of '{name}' is in the engines, where it cannot be emptied",
            "take the deployment down and up again",
        )

    async def empty() -> float:
        held = await _empty_server(name, plan)
        await cache_probe.clear_prefix_caches(plan)
        return held

    held = asyncio.run(empty())
    in_use = [f"what requests use now ({held / 2**20:.0f} MiB)"] if held else []
    return [*in_use, *(f"{tier.kind} {tier.place}" for tier in plan.lmcache_tiers)]


async def _empty_server(name: str, plan: DeploymentPlan) -> float:
    """Empty the memory of LMCache's server; returns the bytes that it keeps because requests use them.

    LMCache 0.5.6 keeps what a request reads or is still storing, and a store ends after its request's answer:
    so it is asked again for a while. What a request had locked whose load failed, or which was aborted, stays
    locked for minutes: it is taken as well if no request is there. (0.5.3 takes even what is in use.)
    """
    deadline = time.monotonic() + _IN_USE_S
    while True:
        await _clear(name, plan, force=False)
        held = await observe.cache_memory_bytes(plan)
        if not held:
            return 0.0
        if time.monotonic() > deadline:
            break
    gauges = (await observe.snapshot(plan)).gauges
    busy = [gauges.get(worker.name, {}).get(name) for worker in plan.workers for name in _LOAD]
    if all(count == 0 for count in busy):
        await _clear(name, plan, force=True)
        held = await observe.cache_memory_bytes(plan)
    return held


async def _clear(name: str, plan: DeploymentPlan, *, force: bool) -> None:
    url = f"http://127.0.0.1:{plan.unit('lmcache').ports['http']}/cache/clear"
    try:
        answer = await loopback_http.ask("POST", url, {"tier": "l1", "force": force})
    except NoAnswerError as error:
        raise NotReadyError(
            f"LMCache's server of '{name}' does not answer ({error})",
            f"see: dynamoctl status -n {name}",
        ) from None
    if answer.status != 200:
        raise DynamoctlError(f"LMCache's server of '{name}' answered HTTP {answer.status}")
    await asyncio.sleep(_SETTLE_S)


def _running(name: str) -> DeploymentPlan:
    plan = serving_plan(name)
    if plan.lmcache is None and "prefill" in plan.elsewhere:
        raise SpecError(f"LMCache of '{name}' is with the prefill workers, on another host", "ask there")
    if plan.lmcache is None:
        raise SpecError(f"'{name}' has no LMCache", "bring it up without --no-lmcache")
    return plan
