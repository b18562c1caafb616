"""What a plan is made from. It is derived once, and handed on as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner import discovery, kv_cache, lmcache, model_kinds, owned_arguments, topology
from dynamoctl.planner.connectors import CacheMode, Connector, Device
from dynamoctl.planner.discovery import Address
from dynamoctl.planner.plan import Role
from dynamoctl.planner.served_names import served_names
from dynamoctl.planner.topology import Placement, Ports


@dataclass(frozen=True)
class PlanContext:
    """What all units of a plan have in common.

    Attributes:
        device: the device that the workers run on.
        names: the names under which the model is served, its own first.
        cache: LMCache's mode; None if it is off, or if no worker on this host computes prompts.
        gib: the CPU memory of each holder of LMCache's cache, GiB; 0 without LMCache.
        store: the directory of Dynamo's file discovery.
        at: where the other processes of the deployment reach what runs on this host.
        ports: hands out this host's free ports.
        cache_ports: the ZMQ port and the HTTP port of the cache server; None without one.
    """

    spec: DeploymentSpec
    facts: HostFacts
    model: ModelFacts
    device: Device
    names: tuple[str, ...]
    cache: CacheMode | None
    gib: float
    store: str
    at: Address
    ports: Ports
    cache_ports: tuple[int, int] | None

    @staticmethod
    def derive(spec: DeploymentSpec, facts: HostFacts, model: ModelFacts) -> PlanContext:
        """Everything that follows from the spec and the host alone.

        Raises:
            SpecError: the spec does not describe a deployment that can work.
            PreflightError: the address to advertise is not this host's, or too few ports are free.
        """
        device = topology.device(spec, facts)
        owned_arguments.check(spec, facts.versions, device)
        names = served_names(spec, model)
        # LMCache belongs to the workers that compute prompts.
        caches = spec.engine == "vllm" and bool({"agg", "prefill"} & set(spec.here))
        cache = lmcache.mode(spec.lmcache, device, facts.versions) if caches else None
        lmcache.check_chunk_size(spec, device, cache)
        lmcache.check_ways_of_copying(spec.lmcache, cache)
        if cache:
            lmcache.eviction_policy(spec.lmcache, cache, facts.versions.get("lmcache", ""))
        kv_cache.check_heads(spec, model)
        model_kinds.check(spec, model, cache, device)
        gib = lmcache.cpu_gb(spec, facts, device, cache) if cache else 0.0
        ports = Ports(facts.free_ports, taken=spec.port)
        at = discovery.address(spec, facts)
        return PlanContext(
            spec=spec,
            facts=facts,
            model=model,
            device=device,
            names=names,
            cache=cache,
            gib=gib,
            store=f"{facts.home}/store",
            at=at,
            ports=ports,
            cache_ports=(ports.take(), ports.take()) if cache == "mp" else None,
        )

    @property
    def namespace(self) -> str:
        """Dynamo's namespace of this deployment; deployments on one host do not see each other."""
        return f"dynamoctl-{self.spec.name}"


@dataclass(frozen=True)
class UnitContext:
    """One unit in the making: what a rule is applied to.

    Attributes:
        place: the place of a worker; None for the frontend and the cache server.
        ports: the unit's own ports, by name.
        connector: the KV transfer config of a vLLM worker.
        user_arguments: the engine arguments that the user gives this worker.
    """

    plan: PlanContext
    role: Role
    place: Placement | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    connector: Connector | None = None
    user_arguments: tuple[str, ...] = ()

    @property
    def spec(self) -> DeploymentSpec:
        """The spec of the deployment."""
        return self.plan.spec

    @property
    def worker(self) -> Placement:
        """The place of a worker; an error for a unit that is not one."""
        assert self.place is not None
        return self.place
