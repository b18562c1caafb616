"""Verify that a deployment serves. Passed gates are not enough: "Proving completion" in docs/design.md."""

from __future__ import annotations

import asyncio

from dynamoctl.errors import NotReadyError
from dynamoctl.monitoring import cache_probe, observe, probes
from dynamoctl.supervisor import card_watch, failures, lifecycle
from dynamoctl.supervisor.deployment import Deployment

# The engine publishes its counters one step after it counts.
_COUNTER_TRIES = 15
# Length of the prompt that verifies LMCache, in chunks of `chunk_size` tokens.
_PROBE_CHUNKS = 1.2


async def verify(deployment: Deployment) -> None:
    """Wait until the frontend lists the model and a completion has come back.

    In a disaggregated deployment, the completion must have moved its KV cache: a prefill worker without NIXL
    passes every health check and serves no request. A host without the frontend is ready when its gates have
    passed and its workers have the model that the others have.

    Raises:
        NotReadyError: a unit has ended, the frontend cannot list the model, workers have different copies of
            it, or LMCache does not work.
    """
    if deployment.frontend is None:
        await card_watch.require_same(deployment)
        return
    failures.forget_listing(deployment)
    for probe in (is_listed, _answers):
        while True:
            done, why = await probe(deployment)
            if done:
                break
            deployment.set_phase_of_frontend(why)
            failures.require_all(deployment)
            failures.check_listing(deployment)
            await asyncio.sleep(lifecycle.GATE_INTERVAL_S)
        await card_watch.require_same(deployment)
    await _prove_cache(deployment)
    for member in deployment.members:
        failures.check_lmcache(deployment, member)
    deployment.set_phase_of_frontend("")


async def is_listed(deployment: Deployment) -> tuple[bool, str]:
    """Whether the frontend lists the model by all of its names: (listed, why not)."""
    plan = deployment.plan
    for name in (plan.model, *plan.model_aliases):
        listed, why = await probes.lists_model(plan.endpoint, name)
        if not listed:
            if plan.elsewhere:
                why = f"waiting for {' and '.join(plan.elsewhere)} on another host ({why})"
            return False, why
    return True, ""


async def _answers(deployment: Deployment) -> tuple[bool, str]:
    """Whether one completion succeeds, with a KV transfer if the plan has one: (succeeded, why not)."""
    plan = deployment.plan
    before = await observe.transfers(plan)
    done, why = await probes.complete(plan.endpoint, plan.model)
    decodes_here = any(unit.role == "decode" for unit in plan.workers)
    if not done or not plan.moves_kv_cache or not decodes_here:
        return done, why
    for _ in range(_COUNTER_TRIES):
        if await observe.transfers(plan) > before:
            return True, ""
        await asyncio.sleep(lifecycle.GATE_INTERVAL_S)
    return False, "a completion came back, but no KV cache went from prefill to decode"


async def _prove_cache(deployment: Deployment) -> None:
    """Verify that LMCache returns the KV cache that it stored: an engine serves without it, unreported.

    No hit is a warning: the deployment serves, only slower, and LMCache cannot store every model's KV cache.

    Raises:
        NotReadyError: LMCache returns another KV cache than it stored, so that answers would be wrong.
    """
    if deployment.plan.lmcache is None or deployment.plan.elsewhere:
        return  # LMCache is off, or other hosts have engines whose prefix caches cannot be cleared from here
    deployment.set_phase_of_frontend("verifying LMCache")
    warnings = deployment.state.warnings
    try:
        probe = await cache_probe.run(deployment.plan, _PROBE_CHUNKS)
    except NotReadyError as error:
        warnings.append(f"LMCache could not be verified: {error.message}")
        return
    if probe.hit_tokens and probe.same_answer is False:
        raise NotReadyError(cache_probe.WRONG, cache_probe.FIX)
    if not probe.hit_tokens and not probe.prefix_cache_cleared:
        warnings.append("LMCache could not be verified: the engines answered from their own prefix caches")
    elif not probe.hit_tokens:
        warnings.append(
            f"LMCache returned none of {probe.prompt_tokens} tokens: the deployment serves without a cache"
            f" (check again with: dynamoctl cache check -n {deployment.state.name})"
        )
