"""The GPU memory that a unit needs to start again: waited for, and had back from those that hold it.

vLLM ends at its start where less is free than its share of the GPU. The memory of a process that has died is
not always free: a peer that reads its KV cache over NIXL has it mapped (CUDA IPC, opened by the first
transfer), and the driver keeps it until the peer unmaps it or ends, though NVML shows no process that
holds it. Measured on H200s with driver 580.159.04: with NIXL 1.3.2 (UCX 1.21) neither
`remove_remote_agent`, nor deregistering, nor the end of the agent unmaps it, whatever UCX_CUDA_IPC_CACHE
and its MAX_REGIONS and MAX_SIZE say; with NIXL 1.4.1 and UCX_CUDA_IPC_CACHE=n, `remove_remote_agent`
does. In both the memory was free as the peer ended. So the peers are started again, too, and all of that
is one recovery, and no failure of theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from dynamoctl import policies
from dynamoctl.errors import NotReadyError
from dynamoctl.host import gpus, processes
from dynamoctl.host.processes import Identity, is_running
from dynamoctl.humanize import duration
from dynamoctl.monitoring import observe
from dynamoctl.planner.arguments import DEFAULT_UTILIZATION, utilization
from dynamoctl.planner.plan import Role
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment, Member
from dynamoctl.supervisor.journal import say

# The driver frees what was not mapped within 4 s of the end of a process (one H200).
_DRIVER_S = 8.0
_INTERVAL_S = 1.0
# What CUDA counts otherwise than NVML does.
_SLACK_MIB = 1024

_WAITING = "waiting for "

# Who may have whose KV cache mapped: it is read over NIXL by the other role.
_PEERS: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}


@dataclass(frozen=True)
class Shortage:
    """Too little is free on one GPU. All in MiB.

    Attributes:
        gpu: as the plan names it.
        wanted: what the unit takes.
        free: what there is.
        others: pid -> what it holds, of processes of this host that are not the deployment's.
        unaccounted: what is in use beyond what NVML shows of processes.
    """

    gpu: int | str
    wanted: int
    free: int
    others: dict[int, int]
    unaccounted: int

    @property
    def is_by_others(self) -> bool:
        """Whether processes that are not ours have what is missing, and nothing is in use that nobody has."""
        return sum(self.others.values()) >= self.wanted - self.free and self.unaccounted < _SLACK_MIB

    def __str__(self) -> str:
        who = ", ".join(
            f"process {pid} ({processes.command_line(pid)})" for pid in sorted(self.others, key=self._held)
        )
        missing = _gib(self.wanted - self.free)
        holder = f"held by {who}" if self.is_by_others else "held by no process that can be seen"
        return f"{missing} of GPU {self.gpu} ({_gib(self.free)} free, {_gib(self.wanted)} wanted), {holder}"

    def _held(self, pid: int) -> int:
        return -self.others[pid]


def shortages(
    argv: Sequence[str], gpus_of_unit: Sequence[int | str], ours: Collection[int]
) -> list[Shortage]:
    """Where too little is free for a worker with this command line; a GPU that NVML does not list is left
    out.

    Args:
        ours: the pids of the deployment's other units.
    """
    share = utilization(argv, DEFAULT_UTILIZATION)
    if share is None or not gpus_of_unit:
        return []
    there = gpus.memory()
    found = []
    for name in gpus_of_unit:
        now = next((one for one in there if one.gpu.is_named(name)), None)
        if now is None:
            continue
        wanted = int(share * now.gpu.memory_mib) - _SLACK_MIB
        if now.free >= wanted:
            continue
        # In a container NVML may name pids of the host, which mean nothing here.
        known = {pid: mib for pid, mib in now.by_process.items() if processes.identify(pid) is not None}
        others = {pid: mib for pid, mib in known.items() if pid not in ours}
        unaccounted = now.used - sum(known.values())
        found.append(Shortage(name, wanted, now.free, others, unaccounted))
    return found


async def until_free(deployment: Deployment, member: Member) -> None:
    """Wait until a unit can have its GPU memory.

    Raises:
        NotReadyError: it cannot, after ten minutes in which nobody was left who could let it go.
    """
    began = since = time.monotonic()
    holders = _holders(deployment, member)
    while short := await _look(deployment, member):
        now = time.monotonic()
        is_ours = not all(one.is_by_others for one in short)
        left = [one for one in holders if is_ours and one.still_lives]
        what = "; ".join(map(str, short))
        if left and now - began > _DRIVER_S:
            since = now
            what += f"; {' and '.join(one.member.unit.name for one in left)} may have it mapped"
            if (holder := await _next_holder(deployment, member, left)) is not None:
                with suppress(OSError):  # no descriptors left: the next round tries again
                    await _restart_holder(deployment, holder, member)
        _show(deployment, member, what, is_first=now == began)
        if now - since > policies.GPU_MEMORY_PATIENCE_S:
            raise _given_up(member, what)
        await asyncio.sleep(_INTERVAL_S)
    if member.state.phase.startswith(_WAITING):
        say(f"{member.unit.name} has its GPU memory after {duration(time.monotonic() - began)}")


async def is_short(deployment: Deployment, member: Member) -> bool:
    """Whether too little is free for it now."""
    return bool(await _look(deployment, member))


async def _look(deployment: Deployment, member: Member) -> list[Shortage]:
    """What is short now. Without descriptors that cannot be known, and nothing could be started anyway."""
    while True:
        try:
            return await asyncio.to_thread(_short, deployment, member)
        except OSError as error:
            say(f"{member.unit.name}: its GPU memory cannot be looked at: {error}", "WARN")
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


def _show(deployment: Deployment, member: Member, what: str, is_first: bool) -> None:
    if is_first:
        say(f"{member.unit.name} is {_WAITING}{what}", "WARN")
    if member.state.phase != _WAITING + what:
        member.state.phase = _WAITING + what
        deployment.save()


def _short(deployment: Deployment, member: Member) -> list[Shortage]:
    if not member.unit.gpus:
        return []
    # Of the unit itself there is what even SIGKILL does not end, if anything: that is nobody's to let go.
    others = [one for one in deployment.members if one is not member]
    ours = {one.pid for own in deployment.processes_of_each(others) for one in own}
    return shortages(member.unit.argv, member.unit.gpus, ours)


@dataclass(frozen=True)
class _Holder:
    """A process that may have the KV cache of another unit's last process mapped."""

    member: Member
    identity: Identity

    @property
    def still_lives(self) -> bool:
        return self.member.state.identity == self.identity and is_running(self.identity)


def _holders(deployment: Deployment, member: Member) -> list[_Holder]:
    role = _PEERS.get(member.unit.role) if deployment.plan.moves_kv_cache else None
    peers = [one for one in deployment.members if one.unit.role == role]
    return [_Holder(one, one.state.identity) for one in peers if one.state.identity is not None]


async def _next_holder(deployment: Deployment, member: Member, left: Sequence[_Holder]) -> Member | None:
    """Whom to start again next; None where nobody can be, or not now.

    What serves goes on: while another worker of the dead one's role takes requests, its peers go one after
    the other, and one that is the only one of its role at a quiet moment.
    """
    up = [one.member for one in left if one.member.state.state in ("ready", "unresponsive")]
    if not up or any(one.member.renewed for one in left):
        return None
    others = [one for one in deployment.members if one.unit.role == member.unit.role and one is not member]
    if not any(one.state.state == "ready" for one in others):
        return up[0]
    role = up[0].unit.role
    peers = [one for one in deployment.members if one.unit.role == role and one.state.state != "failed"]
    if any(one.state.state != "ready" for one in peers):
        return None  # another is on its way back
    return up[0] if len(peers) > 1 or await _is_quiet(deployment, up[0]) else None


async def _is_quiet(deployment: Deployment, member: Member) -> bool:
    """Whether a worker has no request, and gets none for a while."""
    until = time.monotonic() + policies.QUIET_S
    while True:
        gauges = (await observe.snapshot(deployment.plan)).gauges.get(member.unit.name, {})
        requests = gauges.get("requests_running", 0.0) + gauges.get("requests_waiting", 0.0)
        if requests or not gauges or member.state.state != "ready":
            return False
        if time.monotonic() > until:
            return True
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


async def _restart_holder(deployment: Deployment, holder: Member, member: Member) -> None:
    """End a unit so that it lets the memory go."""
    why = f"restarting, to free the GPU memory of {member.unit.name}'s last process"
    say(f"{holder.unit.name} is {why}", "WARN")
    holder.state.phase = why
    await deployment.renew(holder, policies.stop_grace_s(deployment.plan.drain_s))


def _given_up(member: Member, what: str) -> NotReadyError:
    patience = duration(policies.GPU_MEMORY_PATIENCE_S)
    return NotReadyError(
        f"{member.unit.name} cannot start: it has waited {patience} for {what}",
        "end who holds it (nvidia-smi lists processes), or take the deployment down and up again, or give the"
        " unit less: -- --gpu-memory-utilization",
    )


@asynccontextmanager
async def in_turn(deployment: Deployment, member: Member) -> AsyncIterator[None]:
    """Alone on its GPUs while it starts: two that measure their free memory at once disturb each other."""
    async with AsyncExitStack() as stack:
        for gpu in sorted(member.unit.gpus, key=str):
            await stack.enter_async_context(deployment.turns.setdefault(gpu, asyncio.Lock()))
        yield


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
