"""Propose a change of a deployment that is up, and have its supervisor carry it out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamoctl.checks import registry
from dynamoctl.checks.base import Level
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import NotReadyError, PreflightError, SpecError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.host import gpus
from dynamoctl.operations import planning
from dynamoctl.operations.line import Line, Told
from dynamoctl.operations.serving import read_plan, serving
from dynamoctl.operations.status import ask
from dynamoctl.planner import difference, rescaling
from dynamoctl.planner.difference import Step
from dynamoctl.planner.rescaling import FIELDS, Running
from dynamoctl.state import DeploymentDir, DeploymentState, starts_in_turn
from dynamoctl.supervisor import revisions
from dynamoctl.supervisor.revisions import Revision

# A GPU on which others hold more is not free.
_GPU_IN_USE_MIB = 1024
# What a new worker takes, as part of what the largest of those that run holds now.
_MEMORY_MARGIN = 1.0


@dataclass(frozen=True)
class Proposal:
    """A change that was planned, and can be carried out.

    Attributes:
        what: what was asked for, as `scale decode 2`.
        state: the deployment as it was when the change was planned.
        now: what runs.
        wanted: what is to run.
        in_place: units that end before they start again.
        undo: whether steps that have succeeded are taken back if a later one fails.
        warnings: what the user should know.
    """

    what: str
    state: DeploymentState
    now: Running
    wanted: Running
    in_place: tuple[str, ...] = ()
    undo: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The deployment."""
        return self.state.name

    @property
    def steps(self) -> list[Step]:
        """What will be done, in order."""
        return difference.steps(self.now.plan, self.wanted.plan, self.in_place)

    @property
    def is_change(self) -> bool:
        """Whether anything differs; settings of the deployment alone, such as `drain_s`, count too."""
        specs = [one.spec.model_dump(exclude={"timeout_s"}) for one in (self.now, self.wanted)]
        return bool(self.steps) or specs[0] != specs[1]


@dataclass(frozen=True)
class Change:
    """A change that was carried out.

    Attributes:
        revision: its number.
        steps: as the supervisor took them: action, unit, seconds.
    """

    revision: int
    steps: tuple[Mapping[str, Any], ...]


def running(name: str) -> tuple[DeploymentState, Running]:
    """A deployment that serves now, and what it runs.

    Raises:
        SpecError: nothing of this name runs.
        NotReadyError: it does not serve now, or another change is under way.
        DynamoctlError: its plan is missing or damaged.
    """
    state = serving(name)
    if state.change is not None:
        raise NotReadyError(f"another change is under way: {state.change.what}", "wait until it has ended")
    folder = DeploymentDir(name)
    plan, body = read_plan(folder), folder.read_plan() or {}
    return state, Running(read_spec(body.get("spec", {})), plan)


def read_spec(body: dict[str, Any]) -> DeploymentSpec:
    """A spec as it was written. It may have no worker of a role, which a user's spec may not."""
    none = {field: 0 for field in FIELDS.values() if body.get(field) == 0}
    gpu_names = {"gpus": tuple(body.get("gpus", ()))}
    checked = DeploymentSpec.model_validate({**body, **dict.fromkeys(none, 1), "gpus": ()})
    return checked.model_copy(update={**none, **gpu_names})


def scale(name: str, word: str, count: int, gpu_names: tuple[str, ...] = (), force: bool = False) -> Proposal:
    """Plan another number of workers of a role.

    Args:
        word: the role, as users name it.
        gpu_names: GPUs for the new workers; empty: free ones.
        force: whether none may be left.

    Raises:
        SpecError: the mode has no such role, or no worker of it would be left.
        PreflightError: this host has no room for more.
    """
    state, now = running(name)
    role = rescaling.role_of(word, now.spec)
    before = now.spec.counts[role]
    if count < 0:
        raise SpecError(f"{count} is not a number of workers", "give 1 or more")
    if count == 0 and not force:
        raise SpecError(
            f"without {word} workers, '{name}' answers no requests", "to do it all the same: --force"
        )
    facts = planning.look(name)
    model = planning.locate(now.spec, facts)
    wanted = rescaling.scale(
        now, rescaling.Host(facts, model, busy_gpus(facts)), rescaling.Workers(role, count, gpu_names)
    )
    proposal = Proposal(f"scale {word} {count}", state, now, wanted)
    warnings = require_room(proposal, facts, model) if count > before else []
    return replace(proposal, warnings=tuple(warnings))


def busy_gpus(facts: HostFacts) -> Collection[int]:
    """The GPUs that other deployments or other programs use."""
    if not facts.gpus:
        return ()
    with gpus.session():
        used = gpus.memory_used()
    return {gpu.index for gpu in facts.gpus if used.get(gpu.index, 0) > _GPU_IN_USE_MIB}


def require_room(proposal: Proposal, facts: HostFacts, model: ModelFacts) -> list[str]:
    """Check that the host has room for the units that start beside the others; return warnings.

    Raises:
        PreflightError: it has not.
    """
    new = rescaling.new_units(proposal.now.plan, proposal.wanted.plan)
    beside = tuple(unit for unit in new if unit.name not in proposal.in_place and unit.role != "frontend")
    if not beside:
        return []
    more = max(0.0, proposal.wanted.plan.lmcache_cpu_gib - proposal.now.plan.lmcache_cpu_gib)
    only_new = replace(proposal.wanted.plan, units=beside, lmcache_cpu_gib=more)
    warnings = registry.require(registry.check_beside(only_new, facts, model))
    stay = [step for step in proposal.steps if step.action == "add"]
    at_once = len(stay) + any(step.action == "replace" for step in proposal.steps)
    need = memory_of_a_worker(proposal) * at_once
    if need > facts.memory_available_gib:
        raise PreflightError(
            f"{at_once} more worker{'s' if at_once > 1 else ''} would take about {need:.1f} GiB of memory, as"
            f" those that run, and {facts.memory_available_gib:.1f} GiB are available",
            "end other programs, or ask for fewer",
        )
    return warnings


def with_room(proposal: Proposal, facts: HostFacts, names: Sequence[str]) -> list[str]:
    """The workers of which a second one can run for a while."""
    if not names or memory_of_a_worker(proposal) > facts.memory_available_gib:
        return []
    plan = proposal.wanted.plan
    # In process, LMCache's tiers on disks belong to one process each.
    if plan.lmcache == "inproc" and any(tier.kind in ("disk", "gds") for tier in plan.lmcache_tiers):
        return []
    model = planning.locate(proposal.now.spec, facts)
    more_gib = plan.lmcache_cpu_gib / len(plan.workers) if plan.lmcache == "inproc" else 0.0
    found = []
    for unit in plan.units:
        if unit.name in names and unit.is_worker:
            alone = replace(plan, units=(unit,), lmcache_cpu_gib=more_gib)
            findings = registry.check_beside(alone, facts, model)
            if not any(finding.level is Level.ERROR for finding in findings):
                found.append(unit.name)
    return found


def consequences(state: DeploymentState, units: Collection[str]) -> list[str]:
    """What clients notice if these units end before they start again, one sentence for each."""
    said = []
    for unit in (one for one in state.units if one.name in units):
        others = [one for one in state.units if one.role == unit.role and one.name != unit.name]
        serving = any(one.state == "ready" and not one.service for one in others)
        if unit.role == "frontend":
            said.append(f"{unit.name}: answers break off, and requests are refused until it is back")
        elif unit.role != "cache" and not serving:
            said.append(f"{unit.name}: requests fail until it is back, because no other worker has its role")
    return said


def memory_of_a_worker(proposal: Proposal) -> float:
    """What a worker of this deployment takes of the host's memory, GiB; 0 if it cannot be told."""
    seen = ask(DeploymentDir(proposal.name)) or {}
    units = seen.get("memory", {}).get("units", {})
    workers = {unit.name for unit in proposal.now.plan.workers}
    return max((mib for name, mib in units.items() if name in workers), default=0) / 1024 * _MEMORY_MARGIN


def carry_out(proposal: Proposal, told: Told) -> Change:
    """Have the supervisor carry out a change, and wait for its end.

    Args:
        told: called with each thing that happens, for people.

    Raises:
        DynamoctlError: it cannot be carried out, or has failed; the supervisor says why.
        NotReadyError: the supervisor does not answer.
    """
    folder = DeploymentDir(proposal.name)
    wanted = proposal.wanted
    with starts_in_turn():
        _require_own_ports(proposal)
        revision = revisions.propose(
            folder,
            Revision(
                number=0,
                what=proposal.what,
                based_on=proposal.state.revision,
                spec=wanted.spec.model_dump(mode="json"),
                plan=wanted.plan.as_json(),
                in_place=proposal.in_place,
                undo=proposal.undo,
            ),
        )
        line = Line(folder, {"change": revision.number})
        line.until_accepted()
    with line:
        answer = line.answer(told)
    return Change(revision.number, tuple(answer["steps"]))


def _require_own_ports(proposal: Proposal) -> None:
    theirs = planning.planned_ports(but=proposal.name)
    if theirs & set(difference.held_ports(proposal.wanted.plan, proposal.wanted.spec.tp)):
        raise PreflightError("another deployment, which is being started, has taken a port", "try again")
