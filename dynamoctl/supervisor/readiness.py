"""Whether a deployment serves. Passed gates are not enough: see "Proving completion" in docs/design.md."""

from __future__ import annotations

import asyncio

from dynamoctl.errors import NotReadyError
from dynamoctl.monitoring import cache_probe, observe, probes
from dynamoctl.supervisor import failures, lifecycle
from dynamoctl.supervisor.deployment import Deployment

# The engine publishes its counters a step later.
_COUNTER_TRIES = 15
# How long the prompt is that proves LMCache, in its chunks.
_PROBE_CHUNKS = 1.2


async def prove(deployment: Deployment) -> None:
    """Ready means: the frontend lists the model, and a completion has come back.

    A disaggregated one must have moved its KV cache: a prefill worker without NIXL passes every
    health check and serves nobody. Without the frontend, this host's part is ready when its gates passed.

    Raises:
        NotReadyError: a unit has ended, or LMCache does not do what it is there for.
    """
    if deployment.frontend is None:
        return
    for probe in (is_listed, _answers):
        while True:
            done, why = await probe(deployment)
            if done:
                break
            deployment.set_phase_of_frontend(why)
            failures.require_all(deployment)
            await asyncio.sleep(lifecycle.GATE_INTERVAL_S)
    await _prove_cache(deployment)
    for member in deployment.members:
        failures.check_lmcache(deployment, member)
    deployment.set_phase_of_frontend("")


async def is_listed(deployment: Deployment) -> tuple[bool, str]:
    """Whether the frontend lists the model: (yes, why not)."""
    plan = deployment.plan
    listed, why = await probes.lists_model(plan.endpoint, plan.model)
    if not listed and plan.elsewhere:
        why = f"waiting for {' and '.join(plan.elsewhere)} on another host ({why})"
    return listed, why


async def _answers(deployment: Deployment) -> tuple[bool, str]:
    """One completion, with a KV transfer where the plan has one: (yes, why not)."""
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
    """Does LMCache give back what it was given? An engine serves on without it, and says nothing.

    Nothing is a warning: it serves, if slower, and some models' KV cache LMCache cannot keep. Something
    else is an error: answers would be wrong.
    """
    if deployment.plan.lmcache is None or deployment.plan.elsewhere:
        return  # off, or other hosts' engines have caches of their own, which cannot be emptied from here
    deployment.set_phase_of_frontend("asking LMCache")
    warnings = deployment.state.warnings
    try:
        probe = await cache_probe.run(deployment.plan, _PROBE_CHUNKS)
    except NotReadyError as error:
        warnings.append(f"LMCache was not put to the proof: {error.message}")
        return
    if probe.hit_tokens and probe.same_answer is False:
        raise NotReadyError(cache_probe.WRONG, cache_probe.MEND)
    if not probe.hit_tokens and not probe.prefix_cache_cleared:
        warnings.append("LMCache was not put to the proof: the engines answered by themselves")
    elif not probe.hit_tokens:
        warnings.append(
            f"LMCache gave none of {probe.prompt_tokens} tokens back: this serves without a cache"
            f" (ask again with: dynamoctl cache check -n {deployment.state.name})"
        )
