"""Change a deployment that is up, as a revision says: one change at a time, each step noted before it begins.

If a step fails, what it has started is removed, and the steps before it are taken back: the old state serves
on. If the supervisor is killed, `state.json` says at which step, and lists each unit that may have processes.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from dynamoctl.errors import DynamoctlError, InternalError, NotReadyError, SpecError
from dynamoctl.planner import difference
from dynamoctl.planner.difference import Step
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import ChangeState
from dynamoctl.supervisor import membership, revisions
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.membership import Told
from dynamoctl.supervisor.revisions import Revision
from dynamoctl.supervisor.running_unit import RunningUnit

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Done:
    """A step that has been taken.

    Attributes:
        seconds: how long it took.
    """

    action: str
    unit: str
    seconds: float


async def change(deployment: Deployment, number: int, told: Told) -> list[Done]:
    """Carry out a revision, to its end also if the one who asks has gone.

    Args:
        number: of the revision, which was planned for what runs now.
        told: called with each thing that happens, for people.

    Raises:
        SpecError: there is no such revision.
        NotReadyError: it cannot be carried out now, or a new unit does not become ready.
    """
    _require_idle(deployment)
    async with deployment.changing:
        revision = revisions.read(deployment.folder, number)
        if revision.based_on != deployment.state.revision:
            raise NotReadyError(
                "another change has come first", "look at it (dynamoctl history), and try again"
            )
        return await _in_group(deployment, partial(_carry_out, deployment, revision, told))


async def drain(deployment: Deployment, name: str, told: Told) -> float:
    """Keep new requests away from a worker until `undrain`, and wait for those that it has.

    Returns:
        How long it took, in seconds.

    Raises:
        SpecError: there is no such worker.
        NotReadyError: it is not ready, or another change is under way.
    """
    _require_idle(deployment)
    async with deployment.changing:
        member = _worker(deployment, name)
        if member.state.state != "ready":
            raise NotReadyError(f"{name} is {member.state.state}", "wait until it is ready")
        began = time.monotonic()
        member.state.service = "drained"
        say(f"{name} is drained by request")
        await _in_group(deployment, partial(membership.empty, deployment, member, told))
        member.state.phase = "drained"
        deployment.save()
        return time.monotonic() - began


async def undrain(deployment: Deployment, name: str) -> float:
    """Send requests to a drained worker again.

    Raises:
        SpecError: there is no such worker.
        NotReadyError: another change is under way.
    """
    _require_idle(deployment)
    async with deployment.changing:
        member = _worker(deployment, name)
        if member.state.service == "drained":
            member.state.service = member.state.phase = ""
            await asyncio.to_thread(deployment.hand_back, member)
            deployment.save()
            say(f"{name} gets requests again")
        return 0.0


def _worker(deployment: Deployment, name: str) -> RunningUnit:
    member = _member(deployment, name)
    if not member.unit.is_worker:
        raise SpecError(f"{name} is not a worker", "only workers are drained")
    return member


def _member(deployment: Deployment, name: str) -> RunningUnit:
    member = next((one for one in deployment.members if one.unit.name == name), None)
    if member is None:
        raise SpecError(f"'{deployment.folder.name}' has no unit '{name}'")
    return member


def _require_idle(deployment: Deployment) -> None:
    if deployment.changing.locked():
        now = deployment.state.change
        what = f": {now.what}" if now is not None else ""
        raise NotReadyError(f"another change is under way{what}", "try again when it has ended")
    if deployment.state.state not in ("ready", "degraded"):
        raise NotReadyError(f"'{deployment.folder.name}' is {deployment.state.state}")


async def _in_group(deployment: Deployment, work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Do it as one of the tasks that end when the deployment is taken down, before its units are stopped."""

    async def caught() -> _Result | Exception:
        try:
            return await work()
        except Exception as error:
            return error

    guarded = caught()
    try:
        if deployment.group is None:
            raise RuntimeError
        task = deployment.group.create_task(guarded)
    except RuntimeError:  # it comes up, or goes down
        guarded.close()
        raise NotReadyError(f"'{deployment.folder.name}' is not up") from None
    await asyncio.wait([task])
    if task.cancelled():
        raise NotReadyError(f"'{deployment.folder.name}' was taken down meanwhile")
    result = task.result()
    if isinstance(result, DynamoctlError):
        raise result
    if isinstance(result, Exception):
        say("".join(traceback.format_exception(result)), "ERROR")
        raise InternalError(f"the change failed: {result!r}", "please report this, with the supervisor's log")
    return result


async def _carry_out(deployment: Deployment, revision: Revision, told: Told) -> list[Done]:
    target = DeploymentPlan.from_json(revision.plan)
    todo = difference.steps(deployment.plan, target, revision.in_place)
    done: list[Done] = []
    taken: list[Step] = []
    outcome = revisions.INTERRUPTED
    deployment.state.change = ChangeState(revision.number, revision.what, "", time.time())
    deployment.save()
    say(f"revision {revision.number}: {revision.what}")
    told("")  # it is accepted
    try:
        for step in todo:
            began = time.monotonic()
            await _take(deployment, step, told)
            deployment.commit()
            taken.append(step)
            done.append(Done(step.action, step.name, round(time.monotonic() - began, 1)))
        deployment.reorder([unit.name for unit in target.units])
        deployment.commit(target, spec=revision.spec, revision=revision.number)
        outcome = revisions.DONE
    except Exception as error:
        outcome = f"failed: {error.message if isinstance(error, DynamoctlError) else repr(error)}"
        say(f"revision {revision.number} {outcome}", "WARN")
        if revision.undo:
            await _undo(deployment, taken, told)
        raise
    finally:
        deployment.state.change = None
        revisions.settle(deployment.folder, revision.number, outcome)
        deployment.degrade_or_recover()
        deployment.save()
    return done


async def _undo(deployment: Deployment, taken: list[Step], told: Told) -> None:
    """Take the steps back, the last one first. What cannot be taken back stays, and serves."""
    for step in reversed(taken):
        try:
            told(f"{step.name}: taking back")
            await _take(deployment, step.undone, told)
            deployment.commit()
        except DynamoctlError as error:
            deployment.warn(f"{step.name} could not be changed back: {error.message}")


async def _take(deployment: Deployment, step: Step, told: Told) -> None:
    assert deployment.state.change is not None
    deployment.state.change.step = str(step)
    deployment.save()
    if step.action == "add":
        assert step.new is not None
        await membership.add(deployment, step.new, told)
        return
    member = _member(deployment, step.name)
    if step.action == "remove":
        await membership.remove(deployment, member, told)
        return
    assert step.new is not None
    if step.action == "replace":
        await membership.replace(deployment, member, step.new, told)
    else:
        _require_up(member)
        await membership.renew(deployment, member, step.new, told)


def _require_up(member: RunningUnit) -> None:
    if member.state.state not in ("ready", "unresponsive"):
        raise NotReadyError(f"{member.unit.name} is {member.state.state}", "wait until it is ready")
