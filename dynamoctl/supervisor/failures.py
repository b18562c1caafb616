"""What keeps a unit from being ready, said so that one can act on it."""

from __future__ import annotations

import time

from dynamoctl.errors import NotReadyError
from dynamoctl.host import ports
from dynamoctl.humanize import duration
from dynamoctl.logs.phases import last_lines
from dynamoctl.processes import process_control
from dynamoctl.supervisor.deployment import Deployment, Member
from dynamoctl.supervisor.journal import say

_LEASE = (
    "etcd did not answer it in time, or this host stood still;"
    " ETCD_LEASE_TTL in [env], in seconds (Dynamo's own: 10), has it outlast more"
)


def died(deployment: Deployment, member: Member) -> NotReadyError:
    """Record a death and say it: which unit, how, its last lines, its log."""
    name, log = member.unit.name, deployment.folder.log(member.unit.name)
    member.state.exit = process_control.how_it_ended(member.exit_code or 0)
    lines = last_lines(log)
    member.state.error = "\n".join(lines)
    deployment.follow(member, "died")
    after = duration(time.time() - member.state.started_at)
    what = f"{name} ended after {after} ({member.state.exit}) while {member.state.phase or 'running'}"
    hint = ["its last lines:", *(f"  {line}" for line in lines), f"log: {log}"]
    if member.log is not None and member.log.lost_lease():
        what += ": its lease in etcd had run out"
        hint.insert(0, _LEASE)
    say(what, "WARN")
    deployment.save()
    return NotReadyError(what, "\n".join(hint))


def require_all(deployment: Deployment) -> None:
    """Nothing where every unit lives.

    Raises:
        NotReadyError: one has ended.
    """
    for member in deployment.members:
        if member.ended.is_set():
            raise died(deployment, member)


def lost_port(deployment: Deployment, member: Member) -> NotReadyError:
    """Somebody took the unit's port between the plan and its start: it can never say ready."""
    port = member.unit.gate.port
    deployment.follow(member, "died")
    what = f"{member.unit.name} could not listen on port {port}: taken by {ports.holder(port)}"
    say(what, "WARN")
    return NotReadyError(what, "start again: another port will be chosen")


def too_late(deployment: Deployment) -> NotReadyError:
    """It took longer than it may; who is waited for."""
    waiting = [m for m in deployment.members if m.state.state in ("pending", "starting")]
    doing = ", ".join(f"{m.unit.name} is {m.state.phase or 'waiting its turn'}" for m in waiting)
    frontend = deployment.frontend
    doing = doing or (frontend and frontend.state.phase) or "no completion came back"
    logs = "\n".join(f"log: {deployment.folder.log(m.unit.name)}" for m in waiting)
    return NotReadyError(
        f"not ready within {duration(deployment.plan.timeout_s)}: {doing}",
        f"give it more time with --timeout SECONDS, or see why\n{logs}".rstrip(),
    )


def check_lmcache(deployment: Deployment, member: Member) -> None:
    """LMCache goes on without a cache, or without its kernels, and says so in its log alone.

    Raises:
        NotReadyError: it could not start.
    """
    if member.log is None or deployment.plan.lmcache is None:
        return
    member.log.read()
    if member.log.degraded:
        raise NotReadyError(
            f"{member.unit.name}: LMCache could not start and would serve without a cache",
            f"its log says: {member.log.degraded}\n"
            f"log: {deployment.folder.log(member.unit.name)}\nto serve without a cache: --no-lmcache",
        )
    warning = (
        f"{member.unit.name}: LMCache works without its compiled kernels, and is slow:"
        " the lmcache that is installed was built for another torch (dynamoctl's extras fit together)"
    )
    if member.log.no_kernels and warning not in deployment.state.warnings:
        deployment.state.warnings.append(warning)
