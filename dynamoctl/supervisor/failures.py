"""Error messages for units that cannot become ready, with hints that say what to do."""

from __future__ import annotations

import time

from dynamoctl.errors import NotReadyError
from dynamoctl.host import ports
from dynamoctl.humanize import duration
from dynamoctl.logs.phases import last_lines, root_cause
from dynamoctl.planner.secrets import redact
from dynamoctl.processes import process_control
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit

# Dynamo's frontend tries again after 1, 2, 4 and 8 s.
_MOST_LISTING_FAILURES = 4
_LEASE = (
    "the process could not renew its etcd lease in time (etcd slow, or host stalled);"
    " to tolerate longer stalls, set ETCD_LEASE_TTL (seconds, default 30) in [env]"
)


def died(deployment: Deployment, member: RunningUnit) -> NotReadyError:
    """Record and log a unit's exit; return an error with its exit status, its last log lines and its log."""
    name, log = member.unit.name, deployment.folder.log(member.unit.name)
    member.state.exit = process_control.how_it_ended(member.exit_code or 0)
    lines = last_lines(log)
    member.state.error = "\n".join(lines)
    deployment.follow(member, "died")
    after = duration(time.time() - member.state.started_at)
    what = f"{name} ended after {after} ({member.state.exit}) while {member.state.phase or 'running'}"
    hint = ["its last lines:", *(f"  {line}" for line in lines), f"log: {log}"]
    if cause := root_cause(log):
        hint.insert(0, f"cause: {cause}")
    if member.lost_lease():
        what += ": its lease in etcd had run out"
        hint.insert(0, _LEASE)
    say(what, "WARN")
    deployment.save()
    return NotReadyError(what, "\n".join(hint))


def require_all(deployment: Deployment) -> None:
    """Check that every unit lives.

    Raises:
        NotReadyError: a unit has ended.
    """
    for member in deployment.members:
        if member.ended.is_set():
            raise died(deployment, member)


def lost_port(deployment: Deployment, member: RunningUnit) -> NotReadyError:
    """The error for a unit whose port was taken between plan and start, so that it can never be ready."""
    port = member.unit.gate.port
    deployment.follow(member, "died")
    what = f"{member.unit.name} could not listen on port {port}: taken by {ports.holder(port)}"
    say(what, "WARN")
    return NotReadyError(what, "start again: another port will be chosen")


def too_late(deployment: Deployment) -> NotReadyError:
    """The error for a start that exceeded its timeout; it names the units that are not ready."""
    waiting = [m for m in deployment.members if m.state.state in ("pending", "starting")]
    doing = ", ".join(f"{m.unit.name} is {m.state.phase or 'waiting its turn'}" for m in waiting)
    frontend = deployment.frontend
    doing = doing or (frontend and frontend.state.phase) or "no completion came back"
    logs = "\n".join(f"log: {deployment.folder.log(m.unit.name)}" for m in waiting)
    return NotReadyError(
        f"not ready within {duration(deployment.plan.timeout_s)}: {doing}",
        f"raise the limit with --timeout SECONDS, or look for the cause in the logs\n{logs}".rstrip(),
    )


def forget_listing(deployment: Deployment) -> None:
    """From now on, with all units up, it counts if the frontend cannot list the model."""
    frontend = deployment.frontend
    if frontend is not None and frontend.log is not None:
        frontend.log.read()
        frontend.log.times_not_listed = 0


def check_listing(deployment: Deployment) -> None:
    """Look in the frontend's log for why it cannot list the model, which it says nowhere else.

    Raises:
        NotReadyError: it has failed for the same reason again and again.
    """
    frontend = deployment.frontend
    if frontend is None or frontend.log is None or deployment.plan.elsewhere:
        return
    frontend.log.read()
    if frontend.log.times_not_listed >= _MOST_LISTING_FAILURES:
        raise NotReadyError(
            f"the frontend cannot list {deployment.plan.model}: {redact(frontend.log.not_listed)}",
            f"log: {deployment.folder.log(frontend.unit.name)}",
        )


def check_lmcache(deployment: Deployment, member: RunningUnit) -> None:
    """Look in a unit's log for LMCache running without a cache or its kernels, which only the log reports.

    Raises:
        NotReadyError: LMCache could not start.
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
        f"{member.unit.name}: LMCache works without its compiled kernels and is slow, because the installed"
        " lmcache was built for another torch version (dynamoctl's extras install versions that match)"
    )
    if member.log.no_kernels and warning not in deployment.state.warnings:
        deployment.state.warnings.append(warning)
