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
        sources: where LMCache's settings are from, as `spec.load` says it; only shown.

    Raises:
        SpecError: the spec makes no deployment.
        PreflightError: a named GPU is not visible, the address to advertise is not this host's, or it has
            no ports left.
    """
    from dynamoctl.planner import commands, discovery, kv_cache, lmcache, tiers, topology
    from dynamoctl.planner.plan import DeploymentPlan

    device = topology.device(spec, facts)
    # LMCache is with those who compute prompts.
    caches = spec.engine == "vllm" and bool({"agg", "prefill"} & set(spec.here))
    cache = lmcache.mode(spec.lmcache, device) if caches else None
    lmcache.check_chunk_size(spec, device, cache)
    lmcache.check_ways_of_copying(spec.lmcache, cache)
    kv_cache.check_heads(spec, model)
    gib = lmcache.cpu_gb(spec, facts, device, cache) if cache else 0.0
    ports = topology.Ports(facts.free_ports, taken=spec.port)
    store = f"{facts.home}/store"
    at = discovery.address(spec, facts)

    first: list[Unit] = []
    if "frontend" in spec.here:
        first.append(commands.frontend(spec, facts, model, store, at))
    cache_port = None
    if cache == "mp":
        server = commands.cache_server(spec, facts, model, store, at, gib, ports)
        cache_port = server.ports["zmq"]
        first.append(server)

    workers: list[Unit] = []
    places = topology.place(spec, facts)
    for place, earlier in zip(places, topology.turns(places, facts), strict=True):
        after: tuple[str, ...] = ()
        if spec.start == "ordered":
            after = (*(unit.name for unit in first), *earlier)
        workers.append(
            commands.worker(
                spec, facts, model, store, at, device, cache, gib, cache_port, place, ports, after
            )
        )
    return DeploymentPlan(
        name=spec.name,
        mode=spec.mode,
        device=device,
        engine=spec.engine,
        model=model.served_name,
        model_path=model.path,
        host=spec.host,
        port=spec.port,
        home=facts.home,
        store=store,
        timeout_s=spec.timeout_s,
        drain_s=spec.drain_s,
        hang_timeout_s=spec.hang_timeout_s,
        lmcache=cache,
        lmcache_cpu_gib=lmcache.total_cpu_gib(spec, gib, cache),
        lmcache_settings=lmcache.settings(spec.lmcache, gib, sources or {}) if cache else (),
        lmcache_tokens=kv_cache.tokens(gib, spec, model, cache, device) if cache else None,
        lmcache_tiers=tiers.of(spec.lmcache, cache, device, lmcache.holders(spec, cache) if cache else 0),
        units=(*first, *workers),
        discovery=spec.discovery,
        etcd_endpoints=spec.etcd_endpoints,
        address=at.host,
        elsewhere=spec.elsewhere,
    )
