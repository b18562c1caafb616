"""The GPU memory that a unit needs to restart: wait for it, and restart the peers that hold it.

vLLM exits at its start if less GPU memory is free than its share. The memory of a dead process is not always
free. A peer that reads its KV cache over NIXL has the memory mapped (CUDA IPC, opened by the first
transfer). The driver keeps it until the peer unmaps it or exits, although NVML shows no process that holds
it.

Measured on H200s with driver 580.159.04: with NIXL 1.3.2 (UCX 1.21) neither `remove_remote_agent`, nor
deregistering, nor the end of the agent unmaps it, whatever UCX_CUDA_IPC_CACHE and its MAX_REGIONS and
MAX_SIZE are set to. With NIXL 1.4.1 and UCX_CUDA_IPC_CACHE=n, `remove_remote_agent` unmaps it, which decode
does for prefill (`patches.nixl_dead_peers`). With both versions, the memory was free when the peer exited. So
peers that still hold it are restarted as part of the same recovery, which does not count as a failure of
theirs.

LMCache's server maps the KV cache of each worker, too (`patches.lmcache_instance`). NVML shows that memory as
the server's. If it is not free by then, the server is restarted first: its loss costs no request.

Where there is room for the unit beside what its last process had, it is waited for until that is released: an
engine ends if GPU memory becomes free while it measures (vllm==0.31.0:vllm/v1/worker/gpu_worker.py:
determine_available_memory), and a standby measures some seconds after it has become the worker.
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
from dynamoctl.host.gpus import GpuMemory
from dynamoctl.host.processes import Identity, is_running
from dynamoctl.humanize import duration
from dynamoctl.monitoring import observe
from dynamoctl.planner.arguments import DEFAULT_UTILIZATION, utilization
from dynamoctl.planner.plan import Role
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.running_unit import RunningUnit

# The driver frees unmapped memory within 4 s of the end of a process (measured on one H200).
_DRIVER_S = 5.0
_INTERVAL_S = 1.0
_RELEASE_INTERVAL_S = 0.2
# The difference between CUDA's and NVML's figures.
_SLACK_MIB = 1024

_WAITING = "waiting for "

# Role -> the role whose workers may have its KV cache mapped, because they exchange it over NIXL.
_PEERS: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}


@dataclass(frozen=True)
class Shortage:
    """Too little free memory on one GPU. All amounts in MiB.

    Attributes:
        gpu: the GPU as the plan names it.
        wanted: memory that the unit needs.
        free: memory that is free.
        others: pid -> memory held, of processes on this host that are not the deployment's.
        ours: pid -> memory held, of the deployment's other units.
        unaccounted: memory in use that NVML attributes to no process.
    """

    gpu: int | str
    wanted: int
    free: int
    others: dict[int, int]
    ours: dict[int, int]
    unaccounted: int

    @property
    def is_by_others(self) -> bool:
        """Whether processes of others hold the missing memory, and NVML attributes the rest to processes."""
        return sum(self.others.values()) >= self.wanted - self.free and self.unaccounted < _SLACK_MIB

    def __str__(self) -> str:
        missing = self.wanted - self.free
        held = self.others if self.is_by_others else {**self.others, **self.ours}
        if sum(held.values()) < missing:
            holders = "no process that can be seen"
        else:
            largest_first = sorted(held, key=lambda pid: -held[pid])
            holders = ", ".join(f"process {pid} ({processes.command_line(pid)})" for pid in largest_first)
        return (
            f"{_gib(missing)} of GPU {self.gpu} ({_gib(self.free)} free, {_gib(self.wanted)} wanted),"
            f" held by {holders}"
        )


def shortages(
    argv: Sequence[str], gpus_of_unit: Sequence[int | str], ours: Collection[int]
) -> list[Shortage]:
    """The GPUs of a worker that have too little free memory; GPUs that NVML does not list are left out.

    Args:
        argv: the worker's command line, which may set `--gpu-memory-utilization`.
        gpus_of_unit: the worker's GPUs, as the plan names them.
        ours: pids of the deployment's other units.
    """
    share = utilization(argv, DEFAULT_UTILIZATION)
    if share is None or not gpus_of_unit:
        return []
    memory_of_gpus = gpus.memory()
    short = []
    for name in gpus_of_unit:
        now = next((memory for memory in memory_of_gpus if memory.gpu.is_named(name)), None)
        if now is None:
            continue
        wanted = int(share * now.gpu.memory_mib) - _SLACK_MIB
        if now.free >= wanted:
            continue
        known = _known(now)
        others = {pid: mib for pid, mib in known.items() if pid not in ours}
        own = {pid: mib for pid, mib in known.items() if pid in ours}
        short.append(Shortage(name, wanted, now.free, others, own, now.used - sum(known.values())))
    return short


def is_unreleased(gpus_of_unit: Sequence[int | str], servers: Collection[int]) -> bool:
    """Whether memory of a dead process is still in use: NVML shows it as nobody's, or as a cache server's.

    Args:
        gpus_of_unit: the GPUs that the process had, as the plan names them.
        servers: pids of cache servers, which have next to nothing of their own there.
    """
    for now in gpus.memory():
        if any(now.gpu.is_named(name) for name in gpus_of_unit):
            known = _known(now)
            mapped = sum(mib for pid, mib in known.items() if pid in servers)
            if max(mapped, now.used - sum(known.values())) > _SLACK_MIB:
                return True
    return False


def _known(now: GpuMemory) -> dict[int, int]:
    """What the processes of this host hold; a container's NVML may report pids that mean nothing here."""
    return {pid: mib for pid, mib in now.by_process.items() if processes.identify(pid) is not None}


async def until_free(deployment: Deployment, member: RunningUnit) -> None:
    """Wait until the GPU memory of a unit is free; restart the peers that may have it mapped.

    Raises:
        NotReadyError: the memory is not free ten minutes after the last peer that may hold it was restarted.
    """
    began = since = time.monotonic()
    holders = _holders(deployment, member)
    while short := await _look(deployment, member):
        now = time.monotonic()
        is_ours = not all(shortage.is_by_others for shortage in short)
        left = [holder for holder in holders if is_ours and holder.still_lives and holder.may_hold(short)]
        what = "; ".join(map(str, short))
        if left and now - began > _DRIVER_S:
            since = now
            what += f"; {' and '.join(holder.member.unit.name for holder in left)} may have it mapped"
            if (next_holder := await _next_holder(deployment, member, left)) is not None:
                with suppress(OSError):  # no descriptors left: the next round tries again
                    await _restart_holder(deployment, next_holder, member)
        _show(deployment, member, what, is_first=now == began)
        if now - since > policies.GPU_MEMORY_PATIENCE_S:
            raise _given_up(member, what)
        await asyncio.sleep(_INTERVAL_S)
    await _until_released(deployment, member)
    if member.state.phase.startswith(_WAITING):
        say(f"{member.unit.name} has its GPU memory after {duration(time.monotonic() - began)}")


async def _until_released(deployment: Deployment, member: RunningUnit) -> None:
    """Wait until nothing of what the unit's last process had is in use, as long as the driver may take.

    What a peer has mapped stays, and becomes free when that ends.
    """
    until = time.monotonic() + _DRIVER_S
    caches = [other for other in deployment.members if other.unit.role == "cache"]
    servers = {one.state.identity.pid for one in caches if one.state.identity is not None}
    while time.monotonic() < until and member.unit.gpus:
        try:
            if not await asyncio.to_thread(is_unreleased, member.unit.gpus, servers):
                return
        except OSError:  # no descriptors left
            pass
        await asyncio.sleep(_RELEASE_INTERVAL_S)


async def is_short(deployment: Deployment, member: RunningUnit) -> bool:
    """Whether a unit's GPUs have too little free memory now."""
    return bool(await _look(deployment, member))


async def _look(deployment: Deployment, member: RunningUnit) -> list[Shortage]:
    """The GPUs that are short now. Waits while the host has no descriptors: nothing could be started then."""
    while True:
        try:
            return await asyncio.to_thread(_short, deployment, member)
        except OSError as error:
            say(f"{member.unit.name}: cannot read its GPU memory: {error}", "WARN")
            await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


def _show(deployment: Deployment, member: RunningUnit, what: str, is_first: bool) -> None:
    if is_first:
        say(f"{member.unit.name} is {_WAITING}{what}", "WARN")
    if member.state.phase != _WAITING + what:
        member.state.phase = _WAITING + what
        deployment.save()


def _short(deployment: Deployment, member: RunningUnit) -> list[Shortage]:
    if not member.unit.gpus:
        return []
    # The unit's own processes are left out: what remains of them survived SIGKILL and frees nothing.
    others = [other for other in deployment.members if other is not member]
    ours = {process.pid for own in deployment.processes_of_each(others) for process in own}
    return shortages(member.unit.argv, member.unit.gpus, ours)


@dataclass(frozen=True)
class _Holder:
    """A unit's process that may have the KV cache of another unit's last process mapped."""

    member: RunningUnit
    identity: Identity

    @property
    def still_lives(self) -> bool:
        return self.member.state.identity == self.identity and is_running(self.identity)

    def may_hold(self, short: Sequence[Shortage]) -> bool:
        """Whether it may hold what is short. NVML shows a cache server's mappings, and not those of peers."""
        if self.member.unit.role != "cache":
            return True
        return any(shortage.ours.get(self.identity.pid, 0) > _SLACK_MIB for shortage in short)


def _holders(deployment: Deployment, member: RunningUnit) -> list[_Holder]:
    """Cache servers first: the peers' turn comes if the memory is not free then."""
    role = _PEERS.get(member.unit.role) if deployment.plan.moves_kv_cache else None
    caches = [other for other in deployment.members if other.unit.role == "cache"]
    peers = [peer for peer in deployment.members if peer.unit.role == role]
    return [
        _Holder(holder, holder.state.identity)
        for holder in [*caches, *peers]
        if holder.state.identity is not None
    ]


async def _next_holder(
    deployment: Deployment, member: RunningUnit, left: Sequence[_Holder]
) -> RunningUnit | None:
    """The peer to restart next; None if none can be restarted now.

    The deployment keeps serving. While another worker of the dead unit's role takes requests, its peers are
    restarted one after the other, and the only worker of a role when it has no requests.
    """
    up = [holder.member for holder in left if holder.member.state.state in ("ready", "unresponsive")]
    if not up or any(holder.member.renewed for holder in left):
        return None
    if up[0].unit.role == "cache":
        return up[0]  # requests go on without it
    members = deployment.members
    others = [other for other in members if other.unit.role == member.unit.role and other is not member]
    if not any(other.state.state == "ready" for other in others):
        return up[0]
    role = up[0].unit.role
    peers = [peer for peer in members if peer.unit.role == role and peer.state.state != "failed"]
    if any(peer.state.state != "ready" for peer in peers):
        return None  # another peer is being restarted
    return up[0] if len(peers) > 1 or await _is_quiet(deployment, up[0]) else None


async def _is_quiet(deployment: Deployment, member: RunningUnit) -> bool:
    """Whether a worker has no request and gets none for `QUIET_S` seconds."""
    until = time.monotonic() + policies.QUIET_S
    while True:
        gauges = (await observe.snapshot(deployment.plan)).gauges.get(member.unit.name, {})
        requests = gauges.get("requests_running", 0.0) + gauges.get("requests_waiting", 0.0)
        if requests or not gauges or member.state.state != "ready":
            return False
        if time.monotonic() > until:
            return True
        await asyncio.sleep(lifecycle.WATCH_INTERVAL_S)


async def _restart_holder(deployment: Deployment, holder: RunningUnit, member: RunningUnit) -> None:
    """Restart a unit so that it frees the memory."""
    why = f"restarting, to free the GPU memory of {member.unit.name}'s last process"
    say(f"{holder.unit.name} is {why}", "WARN")
    holder.state.phase = why
    await deployment.renew(holder, policies.stop_grace_s(deployment.plan.drain_s))


def _given_up(member: RunningUnit, what: str) -> NotReadyError:
    patience = duration(policies.GPU_MEMORY_PATIENCE_S)
    return NotReadyError(
        f"{member.unit.name} cannot start: it has waited {patience} for {what}",
        "end the process that holds it (nvidia-smi lists processes), or take the deployment down and up"
        " again, or give the unit less: -- --gpu-memory-utilization",
    )


@asynccontextmanager
async def in_turn(deployment: Deployment, member: RunningUnit) -> AsyncIterator[None]:
    """Hold a unit's GPUs while it starts: two engines that profile memory at once disturb each other."""
    async with AsyncExitStack() as stack:
        for gpu in sorted(member.unit.gpus, key=str):
            await stack.enter_async_context(deployment.turns.setdefault(gpu, asyncio.Lock()))
        yield


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
