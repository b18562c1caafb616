"""Each unit's command line and environment: the rules that apply to it, around the program that it runs."""

from __future__ import annotations

from dynamoctl.planner import caller_paths, connectors, patching, tiers
from dynamoctl.planner.context import PlanContext, UnitContext
from dynamoctl.planner.difference import ENGINE_PORTS
from dynamoctl.planner.lmcache import worker_environment
from dynamoctl.planner.plan import Gate, Unit, reachable
from dynamoctl.planner.rules import common, cpu, gpu, inherited, inherited_worker, lmcache, nixl, traces
from dynamoctl.planner.rules import frontend as frontend_rules
from dynamoctl.planner.rules import worker as worker_rules
from dynamoctl.planner.rules.rule import apply, arguments, environment, from_user, unset
from dynamoctl.planner.topology import Placement

UNSET = (*inherited.INHERITED, *inherited_worker.INHERITED_BY_WORKERS, *lmcache.UNSET)


def frontend(context: PlanContext) -> Unit:
    """The HTTP server and router."""
    spec, unit = context.spec, UnitContext(context, "frontend")
    reasons = apply((*common.COMMON, *traces.TRACES, *frontend_rules.FRONTEND, *UNSET), unit)
    paths = caller_paths.reasons(context.facts, reasons)
    return Unit(
        name="frontend",
        role="frontend",
        argv=(
            context.facts.python, "-m", "dynamo.frontend",
            "--http-host", spec.host,
            "--http-port", str(spec.port),
            "--router-mode", spec.router_mode,
            "--namespace", context.namespace,
            *arguments(reasons),
        ),
        env={**environment((*paths, *reasons)), **spec.env},
        unset=unset(reasons, spec.env),
        ports={"http": spec.port},
        # Not /health: that lists the instances in etcd, and answers only after 20 s and more while etcd is
        # frozen or cut off and requests are answered.
        gate=Gate("http", spec.port, "/live", reachable(spec.host)),
        why=(*reasons, *paths, *from_user(spec.env)),
    )  # fmt: skip


def cache_server(context: PlanContext) -> Unit:
    """LMCache's server (mp mode): one for the host."""
    assert context.cache_ports is not None
    spec, (port, http_port) = context.spec, context.cache_ports
    reasons = apply((*common.COMMON, *lmcache.SERVER, *UNSET), UnitContext(context, "cache"))
    paths = caller_paths.reasons(context.facts, reasons)
    user = {**spec.lmcache.env, **spec.env}
    return Unit(
        name="lmcache",
        role="cache",
        argv=(
            context.facts.python, "-m", "dynamoctl.processes.cache_server",
            *arguments(reasons),
            *tiers.server_arguments(spec.lmcache),
        ),
        env={**environment((*paths, *reasons)), **tiers.server_environment(spec.lmcache), **user},
        unset=unset(reasons, spec.env),
        ports={"zmq": port, "http": http_port},
        gate=Gate("http", http_port, "/healthcheck"),
        why=(*reasons, *paths, *from_user(user)),
    )  # fmt: skip


def worker(context: PlanContext, place: Placement, after: tuple[str, ...]) -> Unit:
    """One worker: a vLLM engine under Dynamo, or a mocker."""
    return _mocker(context, place, after) if context.spec.engine == "mocker" else _vllm(context, place, after)


def _vllm(context: PlanContext, place: Placement, after: tuple[str, ...]) -> Unit:
    spec, model = context.spec, context.model
    unit = _vllm_context(context, place)
    own = (*common.COMMON, *traces.TRACES, *worker_rules.WORKER, *traces.ENGINE_TRACES)
    engine = (*apply(own, unit), *patching.reasons(unit))
    cache = apply((*nixl.SIDE_CHANNEL, *nixl.TRANSFER, *lmcache.ENGINE, *lmcache.CLIENT), unit)
    profile = apply((*cpu.CPU, *gpu.GPU), unit)
    inherited = apply(UNSET, unit)
    paths = caller_paths.reasons(context.facts, (*engine, *cache, *profile, *inherited))
    own_lmcache = worker_environment(spec.lmcache, context.cache, place.role)
    return Unit(
        name=place.name,
        role=place.role,
        argv=(
            context.facts.python, "-m", "dynamo.vllm",
            "--model", model.path,
            "--served-model-name", *context.names,
            *arguments(engine),
            *arguments(profile),
            *unit.user_arguments,
        ),
        gpus=place.gpus,
        env={**environment((*paths, *engine, *cache)), **own_lmcache, **environment(profile), **spec.env},
        unset=unset(inherited, spec.env),
        ports=unit.ports,
        kv_transfer_config=unit.connector,
        after=after,
        gate=Gate("http", unit.ports["system"], "/health"),
        why=(*engine, *cache, *profile, *inherited, *paths, *from_user({**own_lmcache, **spec.env})),
    )  # fmt: skip


def _vllm_context(context: PlanContext, place: Placement) -> UnitContext:
    """A worker with its ports, its connector, and the arguments that the user gives it.

    Raises:
        PreflightError: too few ports are free.
    """
    spec = context.spec
    cache_port = context.cache_ports[0] if context.cache_ports else None
    connector = connectors.kv_transfer_config(place.role, context.cache, context.device, cache_port)
    ports = {"system": context.ports.take(), "engine": context.ports.take_row(ENGINE_PORTS)}
    if connectors.uses_nixl(connector):
        ports["nixl"] = context.ports.take_row(spec.tp)
    return UnitContext(context, place.role, place, ports, connector, spec.arguments_of(place.role))


def _mocker(context: PlanContext, place: Placement, after: tuple[str, ...]) -> Unit:
    """Dynamo's mocker: registers and answers like an engine, with no weights and made-up text."""
    spec, model = context.spec, context.model
    port = context.ports.take()
    unit = UnitContext(context, place.role, place, {"system": port})
    reasons = apply((*common.COMMON, *traces.TRACES, *frontend_rules.MOCKER, *UNSET), unit)
    paths = caller_paths.reasons(context.facts, reasons)
    role = () if place.role == "agg" else ("--disaggregation-mode", place.role)
    return Unit(
        name=place.name,
        role=place.role,
        argv=(
            context.facts.python, "-m", "dynamo.mocker",
            "--model-path", model.path,
            "--model-name", context.names[0],
            "--speedup-ratio", "10",
            *role,
            *arguments(reasons),
            *spec.arguments_of(place.role),
        ),
        env={**environment((*paths, *reasons)), **spec.env},
        unset=unset(reasons, spec.env),
        ports=unit.ports,
        after=after,
        gate=Gate("endpoint", port, "/health", context.at.host),
        why=(*reasons, *paths, *from_user(spec.env)),
    )  # fmt: skip
