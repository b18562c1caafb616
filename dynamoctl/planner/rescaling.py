"""From the plan that runs to one with more or fewer workers, or with other settings. Pure: no I/O.

A unit that stays has the same name, ports, GPUs, command line and environment, byte for byte: it is not
touched. What is new gets what is free.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dynamoctl.config.choices import HostRole
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.facts import HostFacts, ModelFacts, visible_entries
from dynamoctl.humanize import nearest
from dynamoctl.planner import gpu_names, lmcache, make_plan, topology
from dynamoctl.planner.difference import held_ports, is_same, keep, width, with_ports
from dynamoctl.planner.gpu_names import GpuName
from dynamoctl.planner.plan import DeploymentPlan, Unit

FIELDS: dict[HostRole, str] = {"agg": "workers", "decode": "decode", "prefill": "prefill"}
# As users name them, and as units of it are named.
_WORDS: dict[str, HostRole] = {
    "worker": "agg",
    "workers": "agg",
    "agg": "agg",
    "decode": "decode",
    "prefill": "prefill",
}

# Why a setting cannot be changed while the deployment is up.
FIXED = {
    "name": "it is another deployment then",
    "mode": "its workers cannot serve beside those that run",
    "engine": "its workers cannot serve beside those that run",
    "device": "its workers cannot serve beside those that run",
    "model": "its workers would answer differently from those that run",
    "served_model_name": "the frontend lists a model by one set of names",
    "tp": "the GPUs of each worker would be others",
    "host": "clients use this address",
    "port": "clients use this address",
    "discovery": "the units that run would not find the new ones",
    "etcd_endpoints": "the units that run would not find the new ones",
    "roles": "other hosts depend on what runs here",
    "advertise": "other hosts know this host by its address",
}


@dataclass(frozen=True)
class Running:
    """A deployment as it runs.

    Attributes:
        spec: the spec of its plan, with device and model filled in.
    """

    spec: DeploymentSpec
    plan: DeploymentPlan


@dataclass(frozen=True)
class Host:
    """What a change is planned for.

    Attributes:
        model: the model of the running spec.
        busy: the GPUs that others use (`gpu_names.Match.identity`).
    """

    facts: HostFacts
    model: ModelFacts
    busy: Collection[GpuName] = ()


@dataclass(frozen=True)
class Workers:
    """So many workers of a role.

    Attributes:
        gpus: GPUs for the new ones, as `--gpus` names them; empty: free ones.
    """

    role: HostRole
    count: int
    gpus: tuple[str, ...] = ()


def role_of(word: str, spec: DeploymentSpec) -> HostRole:
    """The role that a user means: `worker` (or `agg`), `decode`, `prefill`.

    Raises:
        SpecError: there is no such role, the mode has not got it, or it runs on another host.
    """
    role = _WORDS.get(word)
    here = list(spec.counts)
    names = ", ".join("worker" if one == "agg" else one for one in here) or "none"
    if role is None:
        hint = nearest(word, list(_WORDS)) or f"its roles here: {names}"
        raise SpecError(f"'{word}' is not a role of workers", hint)
    if role not in here:
        where = "run on another host" if role in spec.elsewhere else f"are not part of `up {spec.mode}`"
        raise SpecError(f"{word} workers {where}", f"the roles of '{spec.name}' here: {names}")
    return role


def scale(running: Running, host: Host, wanted: Workers) -> Running:
    """The deployment with another number of workers of a role.

    Raises:
        SpecError: GPUs are named for no worker, or too few or too many.
        PreflightError: too few GPUs or ports are free.
    """
    spec = running.spec
    if wanted.gpus and wanted.count <= spec.counts[wanted.role]:
        raise SpecError("--gpus names GPUs for new workers, and there are none", "leave it out")
    if wanted.gpus and topology.device(spec, host.facts) != "cuda":
        raise SpecError(f"--gpus: '{spec.name}' runs on the CPU", "leave it out")
    counts = {**spec.counts, wanted.role: wanted.count}
    new_spec = _with_counts(spec, counts, _gpus(running, host, counts, wanted.gpus))
    plan = make_plan(new_spec, _beside(running, host.facts, new_spec), host.model)
    plan = replace(plan, lmcache_settings=running.plan.lmcache_settings, notes=running.plan.notes)
    return Running(new_spec, keep(running.plan, plan))


def apply(
    running: Running, host: Host, wanted: DeploymentSpec, model: ModelFacts, only_workers: bool = False
) -> Running:
    """The deployment with another spec: units that the difference concerns are new, the others stay.

    Args:
        model: the model of the wanted spec.
        only_workers: whether the frontend and the cache server stay as they are.

    Raises:
        SpecError: the wanted spec differs in what cannot be changed, or makes no deployment.
        PreflightError: too few GPUs or ports are free.
    """
    _require_possible(running.spec, wanted)
    # Whatever follows from the host alone (its memory, its versions) does not count as a change.
    alike = _with_counts(wanted, running.spec.counts, running.spec.gpus)
    facts = _beside(running, host.facts, wanted)
    before = make_plan(running.spec, facts, host.model)
    planned = {unit.name: unit for unit in make_plan(alike, facts, model).units}
    changed = {
        unit.name
        for unit in before.units
        if unit.name not in planned or not is_same(unit, planned[unit.name])
    }
    final = _with_counts(wanted, wanted.counts, wanted.gpus or _gpus(running, host, wanted.counts, ()))
    plan = make_plan(final, facts, model)
    if wanted.gpus:
        now = {unit.name: unit.gpus for unit in running.plan.units}
        changed |= {unit.name for unit in plan.units if unit.gpus != now.get(unit.name, unit.gpus)}
    if only_workers:
        changed -= {unit.name for unit in running.plan.units if not unit.is_worker}
    return Running(final, keep(running.plan, plan, but=changed))


def renew(running: Running, facts: HostFacts, names: Collection[str]) -> Running:
    """The deployment with new processes for some of its workers: the same ones at other ports.

    Raises:
        PreflightError: too few ports are free.
    """
    ports = topology.Ports(_free_ports(running, facts), taken=running.spec.port)
    units = []
    for unit in running.plan.units:
        if unit.name in names and unit.is_worker:
            widths = {name: width(name, running.spec.tp) for name in unit.ports}
            numbers = {name: ports.take_row(wide) for name, wide in widths.items()}
            units.append(with_ports(unit, numbers))
        else:
            units.append(unit)
    return Running(running.spec, replace(running.plan, units=tuple(units)))


def new_units(old: DeploymentPlan, new: DeploymentPlan) -> tuple[Unit, ...]:
    """The units of a plan that must be started: all that the running plan has not, or has otherwise."""
    running = {unit.name: unit for unit in old.units}
    return tuple(
        unit for unit in new.units if unit.name not in running or not is_same(unit, running[unit.name])
    )


def fixed_differences(old: DeploymentSpec, new: DeploymentSpec) -> dict[str, str]:
    """The settings in which two specs differ and that cannot be changed: name -> why not."""
    return {name: why for name, why in FIXED.items() if getattr(old, name) != getattr(new, name)}


def _require_possible(old: DeploymentSpec, new: DeploymentSpec) -> None:
    fixed = fixed_differences(old, new)
    if fixed:
        first = next(iter(fixed))
        others = [f"nor can {name}: {why}" for name, why in fixed.items() if name != first]
        raise SpecError(
            f"{first} cannot be changed while '{old.name}' is up: {fixed[first]}",
            "\n".join([*others, f"take it down first: dynamoctl down -n {old.name}"]),
        )


def _with_counts(spec: DeploymentSpec, counts: dict[HostRole, int], gpus: tuple[str, ...]) -> DeploymentSpec:
    """A spec with other numbers of workers: it is not checked again, and may have none of a role."""
    fields = {FIELDS[role]: count for role, count in counts.items()}
    return spec.model_copy(update={**fields, "gpus": gpus})


def _gpus(running: Running, host: Host, counts: dict[HostRole, int], named: Sequence[str]) -> tuple[str, ...]:
    """The GPUs of all workers as `--gpus` would name them; empty if these are the ones by default."""
    spec = running.spec
    if topology.device(spec, host.facts) != "cuda":
        return ()
    tp = spec.tp
    all_named = list(spec.gpus or map(str, range(spec.ranks)))
    own: dict[tuple[HostRole, int], list[str]] = {}
    for role, count in spec.counts.items():
        for number in range(count):
            own[role, number], all_named = all_named[:tp], all_named[tp:]
    wanted = [(role, number) for role, count in counts.items() for number in range(count)]
    missing = [one for one in wanted if one not in own]
    free = list(named) or _free_gpus(running, host)
    need = len(missing) * tp
    if named and len(named) != need:
        raise SpecError(
            f"--gpus names {len(named)} GPUs, and the new workers take {need}",
            "name as many, or leave it out for free ones",
        )
    if len(free) < need:
        raise PreflightError(
            f"{need} more GPU{'s' if need > 1 else ''} would be needed, and {len(free)} of this host"
            f" {'is' if len(free) == 1 else 'are'} free",
            "end what uses them, or share one: --gpus with one that a worker of less than half of it has",
        )
    for at, one in enumerate(missing):
        own[one] = free[at * tp : (at + 1) * tp]
    taken = tuple(gpu for one in wanted for gpu in own[one])
    is_default = not spec.gpus and taken == tuple(map(str, range(len(taken))))
    return () if is_default else taken


def _free_gpus(running: Running, host: Host) -> list[str]:
    """The visible GPUs that neither this deployment nor others use, as `--gpus` names them."""
    facts = host.facts
    entries = visible_entries(facts.visible_gpus)
    indices = [gpu.index for gpu in facts.gpus] if entries is None else range(len(entries))
    used = {gpu_names.find(gpu, facts).identity for unit in running.plan.units for gpu in unit.gpus}
    free = []
    for index in map(str, indices):
        (name,) = gpu_names.chosen(running.spec.model_copy(update={"gpus": (index,)}), facts)
        if gpu_names.find(name, facts).identity not in {*used, *host.busy}:
            free.append(index)
    return free


def _free_ports(running: Running, facts: HostFacts) -> tuple[int, ...]:
    held = set(held_ports(running.plan, running.spec.tp))
    return tuple(port for port in facts.free_ports if port not in held)


def _beside(running: Running, facts: HostFacts, wanted: DeploymentSpec) -> HostFacts:
    """The facts for a plan of units that start beside those that run.

    What LMCache has of the memory counts as available, and the cache server keeps its ports.
    """
    ports = tuple(port for port in _free_ports(running, facts) if port != wanted.port)
    cache = next((unit for unit in running.plan.units if unit.role == "cache"), None)
    device = topology.device(wanted, facts)
    if cache is not None and lmcache.mode(wanted.lmcache, device, facts.versions) == "mp":
        ports = (cache.ports["zmq"], cache.ports["http"], *ports)
    available = facts.memory_available_gib + running.plan.lmcache_cpu_gib
    return replace(facts, free_ports=ports, memory_available_gib=min(available, facts.memory_total_gib))
