"""Restart a unit by request, without losing its requests where another unit takes them.

A worker is first taken out of discovery, and gets the time of `--drain` for its requests. What is left then
is moved to another worker of its role (`--migration-limit`), or ends with an error. Its end is not a failure.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from dynamoctl import policies
from dynamoctl.errors import NotReadyError, SpecError
from dynamoctl.host.processes import Identity
from dynamoctl.humanize import duration
from dynamoctl.supervisor import draining
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit

_INTERVAL_S = 0.2


async def restart(deployment: Deployment, name: str) -> float:
    """Restart one unit, and wait until it serves again.

    One at a time: of two workers of a role, one always takes requests.

    Returns:
        How long it took, in seconds.

    Raises:
        SpecError: there is no such unit.
        NotReadyError: it cannot be restarted now, or has not come back.
    """
    member = next((one for one in deployment.members if one.unit.name == name), None)
    if member is None:
        raise SpecError(f"'{deployment.folder.name}' has no unit '{name}'")
    if deployment.changing.locked():
        raise NotReadyError("another unit is being restarted by request", "try again when it is back")
    async with deployment.changing:
        if deployment.state.state not in ("ready", "degraded"):
            raise NotReadyError(f"'{deployment.folder.name}' is {deployment.state.state}")
        if member.state.state not in ("ready", "unresponsive"):
            raise NotReadyError(f"{name} is {member.state.state}", "wait until it is ready")
        began, before = time.monotonic(), member.state.identity
        say(f"{name} is restarted by request")
        if member.unit.is_worker:
            member.state.phase = "draining"
            deployment.save()
            await draining.drain_workers(deployment, [member])
        try:
            await deployment.renew(member, policies.stop_grace_s(deployment.plan.drain_s))
        except OSError as error:
            member.state.phase = ""
            with suppress(OSError):
                await deployment.put_back_into_service(member)
            raise NotReadyError(f"{name} cannot be restarted: {error}", "try again") from None
        await _until_it_serves(deployment, member, before)
        return time.monotonic() - began


async def _until_it_serves(deployment: Deployment, member: RunningUnit, before: Identity | None) -> None:
    """Wait for a process other than the one before: that may have ended by itself meanwhile."""
    until = time.monotonic() + deployment.plan.timeout_s
    while member.state.identity == before or not (member.ready.is_set() and deployment.listed):
        has_failed = deployment.state.state == "failed"
        if has_failed or time.monotonic() > until:
            waited = duration(deployment.plan.timeout_s)
            why = "has ended too often" if has_failed else f"is not back after {waited}"
            raise NotReadyError(
                f"{member.unit.name} {why}", f"log: {deployment.folder.log(member.unit.name)}"
            )
        await asyncio.sleep(_INTERVAL_S)
