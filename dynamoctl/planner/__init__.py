"""From what the user wants and what the host has to a plan. Pure: no I/O.

Who only reads a plan imports `planner.plan`, and with it this package: the supervisor, which lives for as
long as the deployment, must not carry what makes a plan (10 MB, pydantic's for the most part).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamoctl.config.spec import DeploymentSpec
    from dynamoctl.facts import HostFacts, ModelFacts
    from dynamoctl.planner.plan import DeploymentPlan, Unit

__all__ = ["make_plan"]


def make_plan(
    spec: DeploymentSpec, facts: HostFacts, model: ModelFacts, sources: Mapping[str, str] | None = None
) -> DeploymentPlan:
    """The one plan for this spec on this host.

    Args:
        sources: where LMCache's settings are from, as `config.load.load` says it; only shown.

    Raises:
        SpecError: the spec makes no deployment, or sets a variable on which the plan stands.
        PreflightError: a GPU is not visible or cannot do it (MIG), the address to advertise is not this
            host's, or it has no ports left.
    """
    from dynamoctl.errors import SpecError
    from dynamoctl.planner import lmcache

    try:
        return _plan(spec, facts, model, sources or {})
    except SpecError as error:
        place = lmcache.place_of(error.message, sources or {})
        raise SpecError(error.message + place, error.hint) from None


def _plan(
    spec: DeploymentSpec, facts: HostFacts, model: ModelFacts, sources: Mapping[str, str]
) -> DeploymentPlan:
    from dynamoctl.planner import commands, kv_cache, lmcache, owned_variables, tiers, topology
    from dynamoctl.planner.context import PlanContext
    from dynamoctl.planner.plan import DeploymentPlan

    context = PlanContext.derive(spec, facts, model)
    cache, gib, device = context.cache, context.gib, context.device

    first: list[Unit] = []
    if "frontend" in spec.here:
        first.append(commands.frontend(context))
    if cache == "mp":
        first.append(commands.cache_server(context))

    workers: list[Unit] = []
    places = topology.place(spec, facts)
    topology.check_mig(spec, cache, places, facts)
    for place, earlier in zip(places, topology.turns(places, facts), strict=True):
        after: tuple[str, ...] = ()
        if spec.start == "ordered":
            after = (*(unit.name for unit in first), *earlier)
        workers.append(commands.worker(context, place, after))
    owned_variables.check((*first, *workers), spec.env)
    return DeploymentPlan(
        name=spec.name,
        mode=spec.mode,
        device=device,
        engine=spec.engine,
        model=context.names[0],
        model_aliases=context.names[1:],
        model_path=model.path,
        host=spec.host,
        port=spec.port,
        home=facts.home,
        store=context.store,
        timeout_s=spec.timeout_s,
        drain_s=spec.drain_s,
        hang_timeout_s=spec.hang_timeout_s,
        standby=(device == "cuda") if spec.standby is None else spec.standby,
        lmcache=cache,
        lmcache_cpu_gib=lmcache.total_cpu_gib(spec, gib, cache),
        lmcache_settings=lmcache.settings(spec.lmcache, gib, sources) if cache else (),
        lmcache_tokens=kv_cache.tokens(gib, spec, model, cache, device) if cache else None,
        lmcache_tiers=tiers.of(spec.lmcache, cache, device, lmcache.holders(spec, cache) if cache else 0),
        units=(*first, *workers),
        discovery=spec.discovery,
        etcd_endpoints=spec.etcd_endpoints,
        address=context.at.host,
        elsewhere=spec.elsewhere,
    )
