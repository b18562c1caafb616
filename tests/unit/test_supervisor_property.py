"""Random lives of a deployment: what dies, freezes or goes away, and when it is told to stop.

First the table of states alone. Then the real `Supervisor`, in a world of fake processes and in an event
loop whose clock jumps to the next timer: nothing is started, signalled, asked over a network or waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import math
import random
import selectors
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, get_args

import pytest
from dynamoctl import policies
from dynamoctl.answers.cache import CacheProbe
from dynamoctl.errors import DynamoctlError, InternalError, NotReadyError, PreflightError
from dynamoctl.facts import Gpu
from dynamoctl.host.gpus import GpuMemory
from dynamoctl.host.processes import MARK, Identity
from dynamoctl.monitoring import cache_probe, observe, probes
from dynamoctl.patches import engine_heartbeat
from dynamoctl.patches.engine_heartbeat import Heartbeat
from dynamoctl.planner.plan import DeploymentPlan, Gate, Role, Tier, Unit
from dynamoctl.processes import process_control
from dynamoctl.state import DeploymentState
from dynamoctl.supervisor import (
    card_watch,
    changing,
    control,
    deployment,
    draining,
    etcd_watch,
    failures,
    gpu_memory,
    lifecycle,
    membership,
    readiness,
    restarting,
    run,
    silences,
    starting,
    stopping,
    store_watch,
    temporary,
    watching,
)
from dynamoctl.supervisor.deployment import Deployment
from dynamoctl.supervisor.lifecycle import PROMPT, TABLE, Event, Patience, State
from dynamoctl.supervisor.revisions import Revision
from hypothesis import given, settings
from hypothesis import strategies as st

STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)
END: tuple[State, ...] = ("stopped", "failed")

# The same examples at every run: a failure in CI can be had again.
repeatable = settings(deadline=None, derandomize=True, database=None)


def _paths() -> dict[State, frozenset[State]]:
    """What can come after each state, by any number of events or none."""
    reach = {state: {state} for state in STATES}
    for _ in STATES:
        for (state, _event), then in TABLE.items():
            for seen in reach.values():
                if state in seen:
                    seen.add(then)
    return {state: frozenset(seen) for state, seen in reach.items()}


PATHS = _paths()


# ---- the table ----------------------------------------------------------------------------


@settings(repeatable, max_examples=2000)
@given(st.lists(st.sampled_from(EVENTS), max_size=25))
def test_whatever_happens_a_unit_can_be_stopped_and_stays_so(events: list[Event]) -> None:
    state: State = "pending"
    for event in events:
        before = state
        if (state, event) not in TABLE:
            with pytest.raises(InternalError):
                lifecycle.follow(state, event)
            continue
        state = lifecycle.follow(state, event)
        assert state in PATHS[before]
        assert state != "pending"
        # Ready is what passed its gate, and only a start leads there, or an answer after a silence.
        back = (("starting", "gate_passed"), ("unresponsive", "answered"))
        assert state != "ready" or (before, event) in back
        assert state != "starting" or event == "start"
        # A stop is final: nothing starts a unit that was told to stop, but for one that was down anyway.
        assert before not in ("stopping", "stopped") or state in ("stopping", "stopped")
    state = lifecycle.follow(state, "stop")
    assert state in ("stopping", *END)
    if state == "stopping":
        assert lifecycle.follow(state, "died") == "stopping"
        state = lifecycle.follow(state, "ended")
    assert state in END
    assert PATHS["stopped"] == {"stopped"}


@settings(repeatable, max_examples=500)
@given(st.lists(st.floats(0, 400), max_size=30))
def test_no_more_restarts_than_allowed_in_any_window(pauses: list[float]) -> None:
    now, times = 0.0, list[float]()
    for pause in pauses:
        now += pause
        if lifecycle.may_restart(times, now):
            times.append(now)
        else:
            # Not for nothing: as many as are allowed are in the window.
            assert now - times[-policies.RESTART_LIMIT] < policies.RESTART_WINDOW_S
    for first, later in zip(times, times[policies.RESTART_LIMIT :], strict=False):
        assert later - first >= policies.RESTART_WINDOW_S


@settings(repeatable, max_examples=500)
@given(st.lists(st.tuples(st.floats(0.1, 100), st.sampled_from([True, False, None])), max_size=30))
def test_silence_is_what_has_passed_without_an_answer(looks: list[tuple[float, bool | None]]) -> None:
    silent, since = dict[str, float](), 0.0
    for pause, answered in looks:  # None: not asked, for it is not ready
        silent = lifecycle.silent_for(silent, {} if answered is None else {"worker-0": answered}, pause)
        since = since + pause if answered is False else 0.0
        assert silent.get("worker-0", 0.0) == pytest.approx(since)


# ---- what happens -------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """How one start of a unit goes.

    Attributes:
        how: `up`; `dies`; `no memory`: it dies, and logs that its GPU has too little; `hangs`: never up;
            `refused`: cannot be started at all; `stranger`: another process answers at its port at first;
            `port taken`: it logs so and runs on; `no cache`: it is up, and logs that LMCache is not;
            `unseen`: its registration is lost before anybody saw it.
        after_s: seconds until it is up, or dead.
        leaves_s: seconds from SIGTERM to its end; None: it does not hear it.
        helper: a second process that outlives the first one: `marked` as the unit's, or a `stray`.
    """

    how: str = "up"
    after_s: float = 1.0
    leaves_s: float | None = 0.2
    helper: str = ""
    code: int = 1


@dataclass(frozen=True)
class Die:
    """Processes end by themselves, all at once; a negative code is a signal."""

    units: tuple[str, ...]
    code: int = 1


@dataclass(frozen=True)
class Freeze:
    """A process answers nobody and hears no SIGTERM."""

    unit: str
    seconds: float


@dataclass(frozen=True)
class Hang:
    """An engine answers no pings, in the middle of a step or not; its worker's own process answers."""

    unit: str
    seconds: float
    is_busy: bool = False


@dataclass(frozen=True)
class Refuse:
    """A process answers at its gate that it is not ready."""

    unit: str
    seconds: float


@dataclass(frozen=True)
class Held:
    """Memory of a GPU is held: by nobody that NVML shows, or by another program."""

    gpu: int
    seconds: float
    by_others: bool = False


@dataclass(frozen=True)
class Load:
    """The workers have requests."""

    seconds: float


@dataclass(frozen=True)
class Unlist:
    """The frontend does not list the model; a new process of it may."""

    seconds: float
    mended_by_restart: bool = True


@dataclass(frozen=True)
class Away:
    """One of LMCache's stores does not answer."""

    store: int
    seconds: float


@dataclass(frozen=True)
class Next:
    """So the next starts of a unit go."""

    unit: str
    start: Start
    times: int = 1


@dataclass(frozen=True)
class Deaf:
    """A process no longer hears SIGTERM."""

    unit: str


@dataclass(frozen=True)
class Stop:
    """`down`."""


@dataclass(frozen=True)
class Full:
    """The disk has no room for the state."""

    seconds: float


@dataclass(frozen=True)
class Starved:
    """The supervisor has no descriptor left: it can ask nobody, and look at no process."""

    seconds: float


@dataclass(frozen=True)
class Change:
    """A revision is to be carried out: so many workers of a role, or new processes for units.

    Attributes:
        more: how many workers of the role there are to be more, or fewer.
        replaced: units that get a successor.
        in_place: units that end before they start again, with other arguments.
    """

    role: Role = "agg"
    more: int = 0
    replaced: tuple[str, ...] = ()
    in_place: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drain:
    """`drain`, and after so many seconds `undrain`; never if they are infinite."""

    unit: str
    seconds: float


Happening = (
    Change
    | Drain
    | Die
    | Freeze
    | Hang
    | Refuse
    | Held
    | Load
    | Unlist
    | Away
    | Next
    | Deaf
    | Full
    | Starved
    | Stop
)


@dataclass(frozen=True)
class Life:
    """One example.

    Attributes:
        plan: the name of one of PLANS.
        events: what happens: (seconds after the last one, what).
        once_ready: whether the first one waits for the end of the start.
        starts: how first starts go, where it is not just well.
        keep: `up --keep`.
        proof: what LMCache's proof finds: `good`, `nothing`, `wrong`, `not cleared`.
        seed: of the jitter.
    """

    plan: str
    events: tuple[tuple[float, Happening], ...] = ()
    once_ready: bool = True
    starts: tuple[tuple[str, Start], ...] = ()
    keep: bool = False
    proof: str = "good"
    seed: int = 0
    timeout_s: float = 60.0


def _plan(
    name: str,
    *units: tuple[str, Role],
    lmcache: Any = None,
    stores: int = 0,
    gpus: Mapping[str, Any] = MappingProxyType({}),
    drain_s: float = 0.0,
) -> DeploymentPlan:
    """In the planner's order: the frontend and the cache server first, prefill after decode.

    Args:
        gpus: unit -> its GPUs.
    """
    made: list[Unit] = []
    for number, (unit, role) in enumerate(units):
        first = [one.name for one in made if role not in ("frontend", "cache") and not one.is_worker]
        decode = [one.name for one in made if (role, one.role) == ("prefill", "decode")]
        gate = Gate("http", 20000 + number, "/health")
        on = tuple(gpus[unit]) if unit in gpus else ()
        share = ("--gpu-memory-utilization", "0.4") if name.endswith("one GPU") else ()
        made.append(
            Unit(unit, role, (unit, *share), gate, on, ports={"system": gate.port}, after=(*first, *decode))
        )
    return DeploymentPlan(
        name=name, mode="disagg" if "prefill-0" in dict(units) else "agg",
        device="cuda" if gpus else "cpu", engine="vllm",
        model="m", model_path="/m", host="127.0.0.1", port=20000, home="/nowhere", store="/nowhere/store",
        timeout_s=60, drain_s=drain_s, lmcache=lmcache, lmcache_cpu_gib=0, units=tuple(made),
        lmcache_tiers=tuple(Tier("remote", f"redis://127.0.0.1:{6379 + i}") for i in range(stores)),
    )  # fmt: skip


_FRONT: tuple[str, Role] = ("frontend", "frontend")
_CACHE: tuple[str, Role] = ("lmcache", "cache")
_DECODE: tuple[str, Role] = ("decode-0", "decode")
_PREFILL: tuple[str, Role] = ("prefill-0", "prefill")
PLANS = {
    plan.name: plan
    for plan in (
        _plan("agg", _FRONT, ("worker-0", "agg")),
        _plan("two workers", _FRONT, ("worker-0", "agg"), ("worker-1", "agg"), drain_s=5.0),
        _plan("agg with a server", _FRONT, _CACHE, ("worker-0", "agg"), lmcache="mp", stores=2),
        _plan("agg in process", _FRONT, ("worker-0", "agg"), lmcache="inproc", stores=1),
        _plan("disagg", _FRONT, _DECODE, _PREFILL),
        _plan("agg on a GPU", _FRONT, ("worker-0", "agg"), gpus={"worker-0": [0]}),
        _plan("disagg on two GPUs", _FRONT, _DECODE, _PREFILL, gpus={"decode-0": [0], "prefill-0": [1]}),
        _plan("disagg on one GPU", _FRONT, _DECODE, _PREFILL, gpus={"decode-0": [0], "prefill-0": [0]}),
        _plan(
            "two prefill workers",
            _FRONT,
            _DECODE,
            _PREFILL,
            ("prefill-1", "prefill"),
            gpus={"decode-0": [0], "prefill-0": [1], "prefill-1": [2]},
        ),
        _plan(
            "two of each",
            _FRONT,
            _DECODE,
            ("decode-1", "decode"),
            _PREFILL,
            ("prefill-1", "prefill"),
            gpus={"decode-0": [0], "decode-1": [1], "prefill-0": [2], "prefill-1": [3]},
        ),
        _plan("disagg with a server", _FRONT, _CACHE, _DECODE, _PREFILL, lmcache="mp", stores=1),
    )
}


# ---- the world ----------------------------------------------------------------------------

_BOOT = "a boot that never was"
_SUPERVISOR = Identity(10**8, 1, _BOOT)
_LATENCY_S = 0.01
_KEEP_S = 10.0
_TURNS: dict[Role, int] = {"prefill": 0, "decode": 1, "agg": 1, "cache": 2, "frontend": 3}
_BEGIN, _MOST_S, _MOST_STEPS = 1000.0, 20_000.0, 300_000
_MOST_BROKEN = 100
# Four groups of units, each with its grace of up to 25 s.
_STOP_S = 130.0
_HOUR_S = 3600.0
# Less of it is enough where all is well for so long, or where nothing has changed for longer than anything
# that the supervisor may be waiting for.
_CALM_S = 30.0
_STANDSTILL_S = policies.RESTART_WINDOW_S + 100.0
# Dynamo drops the registration of a dead process after so long.
_LEASE_S = 10.0
_REGISTERS_AFTER_S = 1.0
# What is silent is seen so long after its bound at most: a look every 5 s, of up to 10 s.
_LOOK_S = 20.0
# All of one GPU is 100 GiB; a worker alone on it takes 92 %, one of two 40 %.
_GPU_MIB = 102_400
_DRIVER_S = 4.0
BUSY = lifecycle.busy(180.0)
# Another program's process.
_OTHER = 99


class _NoWaiting(selectors.SelectSelector):
    """Where the loop would wait, its clock moves on."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        self.loop.pass_time(timeout)
        return []


class EndlessError(Exception):
    """Everybody waits for ever, or the same happens again and again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing else can happen. Signals are those that the test delivers."""

    def __init__(self) -> None:
        self.now, self.until, self.steps = _BEGIN, _BEGIN + _MOST_S, 0
        self.handlers: dict[int, Callable[[], object]] = {}
        self.before_time_passes: Callable[[], object] = lambda: None
        self.faults: list[str] = []
        self.is_over = False
        super().__init__(_NoWaiting(self))
        self.set_exception_handler(lambda _, context: self.faults.append(str(context)))

    def time(self) -> float:
        return self.now

    def pass_time(self, seconds: float | None) -> None:
        self.steps += 1
        if self.is_over:
            self.now += 1.0 if seconds is None else seconds
        elif seconds is None or self.steps > _MOST_STEPS or self.now > self.until:
            raise EndlessError
        elif seconds > 0:
            self.before_time_passes()
            self.now += seconds

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: object) -> None:
        self.handlers[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self.handlers.pop(sig, None) is not None


@dataclass(eq=False)
class Process:
    """One fake process."""

    identity: Identity
    unit: str
    start: Start
    born: float
    leader: Process | None = None
    died: float = math.inf
    frozen_until: float = -math.inf
    hung_until: float = -math.inf
    is_busy: bool = False
    refuses_until: float = -math.inf
    beaten: float = 0.0
    withheld: bool = False
    mapped: set[Any] = field(default_factory=set)
    unlisted_until: float = -math.inf
    deaf: bool = False
    to_be_renewed: bool = False
    served: int = 0
    forgotten: bool = False
    answered: float = 0.0
    listed: float = 0.0

    def __post_init__(self) -> None:
        self.answered = self.listed = self.beaten = self.up = self.born + self.start.after_s
        if self.start.how in ("dies", "no memory", "hangs", "port taken"):
            self.up = math.inf
            self.answered = self.listed = self.born
        self.deaf = self.start.leaves_s is None

    @property
    def lives(self) -> bool:
        return self.died == math.inf

    @property
    def is_marked(self) -> bool:
        return self.leader is None or self.start.helper == "marked"


class World:
    """Everything outside the supervisor, and what is seen of the supervisor from there.

    Attributes:
        broken: the rules that were broken: (which, how).
    """

    def __init__(self, life: Life, loop: VirtualLoop) -> None:
        self.life, self.loop = life, loop
        self.plan = PLANS[life.plan]
        # Mark -> unit. A unit that replaces another one has a mark of its own, and gets its name later.
        self.known = {unit.name: unit for unit in self.plan.units}
        self.supervised: Deployment | None = None
        self.marks: dict[str, str] = {}
        self.revisions: dict[int, Revision] = {}
        self.changes: list[asyncio.Task[None]] = []
        self.changed_units = False
        self.turns: dict[str, int] = defaultdict(int)
        self.broken: list[tuple[str, str]] = []
        self.processes: list[Process] = []
        self.leaders: dict[str, Process] = {}
        self.next_starts: dict[str, list[Start]] = defaultdict(list)
        for unit, start in life.starts:
            self.next_starts[unit].append(start)
        self.reapable: dict[int, int] = {}
        self.starts: dict[str, int] = defaultdict(int)
        self.restarts: dict[str, list[float]] = defaultdict(list)
        self.passed: set[str] = set()
        self.unlisted_until = -math.inf
        self.told_listed = False
        self.away_until = [-math.inf] * len(self.plan.lmcache_tiers)
        self.seen_away = [-math.inf] * len(self.plan.lmcache_tiers)
        self.full_until = self.starved_until = -math.inf
        self.held_until: dict[tuple[int, bool], float] = {}
        self.loaded_until = -math.inf
        self.unsaved = self.published = False
        self.transfers = 0
        self.state = "starting"
        self.changed, self.first_ready = loop.now, math.inf
        self.error: dict[str, Any] | None = None
        self.failure: dict[str, Any] | None = None
        self.least_ready: dict[str, int] = {}
        self.units: dict[str, State] = {unit.name: "pending" for unit in self.plan.units}
        self.told_to_stop = self.stopping = False
        self.stop_told = math.inf
        loop.before_time_passes = self._check_moment

    def unit(self, mark: str) -> Unit:
        """The unit of a process."""
        return self.known[mark]

    def mark_of(self, name: str) -> str:
        """The mark of the processes of the unit that has this name now."""
        member = next((one for one in self.member_list if one.unit.name == name), None)
        return name if member is None else member.mark.removeprefix("start/")

    @property
    def member_list(self) -> list[Any]:
        return self.supervised.members if self.supervised is not None else []

    def current(self) -> list[Process]:
        """The processes of units that count."""
        marks = {one.mark.removeprefix("start/") for one in self.member_list if one.state.counts}
        return [one for mark, one in self.leaders.items() if mark in marks or self.supervised is None]

    def breaks(self, rule: str, how: str) -> None:
        """Noted, and judged at the end: an exception here would run through the supervisor."""
        if len(self.broken) < _MOST_BROKEN:
            self.broken.append((rule, f"at {self.loop.now - _BEGIN:.2f} s: {how}"))

    @property
    def was_up(self) -> bool:
        return self.first_ready <= self.loop.now

    def born_after(self, unit: str, seconds: float) -> bool:
        """Whether its last process was started so long after the deployment was ready."""
        return self.leaders[unit].born >= self.first_ready + seconds

    # ---- events

    async def play(self) -> None:
        """The events, a quiet time, a stop."""
        while self.life.once_ready and self.state == "starting":
            await asyncio.sleep(0.5)
        for pause, event in self.life.events:
            await asyncio.sleep(pause)
            self.happen(event)
        if not self.told_to_stop:
            await self._quiet()
            self.happen(Stop())

    def happen(self, event: Happening) -> None:  # noqa: PLR0912  (a kind of event each)
        now = self.loop.now
        match event:
            case Die(units, code):
                for unit in units:
                    self._end(self.leaders.get(self.mark_of(unit)), code)
            case Freeze(unit, seconds) if unit in self.leaders:
                self.leaders[unit].frozen_until = now + seconds
            case Hang(unit, seconds, is_busy) if unit in self.leaders:
                self.leaders[unit].hung_until, self.leaders[unit].is_busy = now + seconds, is_busy
            case Refuse(unit, seconds) if unit in self.leaders:
                self.leaders[unit].refuses_until = now + seconds
            case Change():
                self.changes.append(asyncio.ensure_future(self._change(event)))
            case Drain(unit, seconds):
                self.changes.append(asyncio.ensure_future(self._drain(unit, seconds)))
            case Held(gpu, seconds, by_others):
                self.held_until[gpu, by_others] = now + seconds
            case Load(seconds):
                self.loaded_until = now + seconds
            case Unlist(seconds, mended_by_restart):
                if not mended_by_restart:
                    self.unlisted_until = now + seconds
                elif "frontend" in self.leaders:
                    self.leaders["frontend"].unlisted_until = now + seconds
            case Away(store, seconds):
                self.away_until[store] = now + seconds
            case Next(unit, start, times):
                self.next_starts[unit] = [start] * times
            case Deaf(unit) if unit in self.leaders:
                self.leaders[unit].deaf = True
            case Full(seconds):
                self.full_until = now + seconds
            case Starved(seconds):
                self.starved_until = now + seconds
            case Stop():
                self.told_to_stop = True
                self.stop_told = min(self.stop_told, now)
                self.loop.until = max(self.stop_told, self.starved_until) + 3 * _STOP_S
                self.loop.handlers[signal.SIGTERM]()

    async def _change(self, event: Change) -> None:
        """Ask for a change as a command does, and see what has become of it."""
        deployment = self.supervised
        assert deployment is not None
        target, in_place = self._target(event, deployment.plan)
        number = max(self.revisions, default=0) + 1
        before = [one.unit.name for one in deployment.members if one.state.counts]
        self.revisions[number] = Revision(
            number, "a change", deployment.state.revision, {}, target.as_json(), in_place
        )
        is_idle = not deployment.changing.locked()
        self.changed_units = True
        try:
            await changing.change(deployment, number, lambda _: None)
        except DynamoctlError as error:
            if isinstance(error, InternalError):
                self.breaks("exception", error.message)
            expected = before
        else:
            expected = [unit.name for unit in target.units]
        if self.told_to_stop or not is_idle or deployment.state.state == "failed":
            return
        there = [one.unit.name for one in deployment.members]
        if there != expected and not deployment.state.warnings:
            self.breaks("change", f"{there}, and not {expected}")
        if deployment.state.change is not None:
            self.breaks("change", "it is said to go on, and has ended")
        marks = {one.mark.removeprefix("start/") for one in deployment.members}
        for one in self.processes:
            if one.lives and one.is_marked and one.unit not in marks:
                self.breaks("left", f"a process of {one.unit}, which is not there any more")

    def _target(self, event: Change, plan: DeploymentPlan) -> tuple[DeploymentPlan, tuple[str, ...]]:
        ports = itertools.count(max(unit.gate.port for unit in self.known.values()) + 1000)
        units = list(plan.units)
        there = [unit for unit in units if unit.role == event.role and unit.is_worker]
        for _ in range(-event.more):
            if len(there) > 1:
                units.remove(there.pop())
        for _ in range(event.more if there and plan.device == "cpu" else 0):
            port = next(ports)
            name = f"{there[0].name[:-1]}{len(there)}"
            gate = replace(there[0].gate, port=port)
            there.append(replace(there[0], name=name, gate=gate, ports={"system": port}))
            units.append(there[-1])
        named = {unit.name for unit in units}
        in_place = tuple(name for name in event.in_place if name in named)
        if plan.device == "cuda":  # there is no room for two of them
            in_place += tuple(name for name in event.replaced if name in named)
        for at, unit in enumerate(units):
            if unit.name in event.in_place:
                units[at] = replace(unit, argv=(*unit.argv, "--other"))
            elif unit.name in event.replaced and unit.is_worker and plan.device == "cpu":
                port = next(ports)
                units[at] = replace(
                    unit, gate=replace(unit.gate, port=port), ports={"system": port}, after=()
                )
        return replace(plan, units=tuple(units)), in_place

    async def _drain(self, unit: str, seconds: float) -> None:
        deployment = self.supervised
        assert deployment is not None
        peers = [one for one in deployment.members if one.unit.role == self.unit(unit).role]
        if len(peers) < 2:
            return  # the command refuses it
        with contextlib.suppress(DynamoctlError):
            await changing.drain(deployment, unit, lambda _: None)
            if seconds == math.inf:
                return
            await asyncio.sleep(seconds)
            while True:
                with contextlib.suppress(NotReadyError):
                    await changing.undrain(deployment, unit)
                    return
                if deployment.state.state not in ("ready", "degraded"):
                    return
                await asyncio.sleep(5.0)

    def _end(self, one: Process | None, code: int) -> None:
        if one is not None and one.lives:
            one.died = self.loop.now
            self.reapable[one.identity.pid] = code
            self.loop.call_soon(self.loop.handlers[signal.SIGCHLD])

    def _leave(self, one: Process) -> None:
        """SIGTERM has been heard, unless it is frozen: then it is when it goes on."""
        if one.frozen_until <= self.loop.now:
            self._end(one, 0)
        elif one.frozen_until < math.inf:
            self.loop.call_at(one.frozen_until, self._leave, one)

    # ---- rules

    def _check_moment(self) -> None:
        """Before time passes: whatever could be done at once has been done and saved."""
        if self.state != "ready":
            return
        for one in self.current():
            unit = one.unit
            if not one.lives:
                self.breaks("ready", f"{unit} is dead and the state says ready")
            since = max(self.first_ready, self.starved_until)
            if self._is_frozen(one) and self.loop.now - max(one.answered, since) > PROMPT.silent_s + _LOOK_S:
                self.breaks("ready", f"{unit} is frozen and the state says ready")
            silent_s = self.loop.now - max(one.beaten, since)
            if self._is_hung(one) and silent_s > self._patience(one).silent_s + 2 * _LOOK_S:
                self.breaks("ready", f"the engine of {unit} hangs and the state says ready")
        if not self.told_listed:
            self.breaks("ready", "the frontend does not list the model and the state says ready")

    def _check_state(self, state: DeploymentState) -> None:
        for unit in state.units:
            before = self._state_before(unit.name)
            if unit.state not in PATHS[before]:
                self.breaks("path", f"{unit.name} was {before} and is {unit.state}")
            if unit.state == "ready":
                self.passed.add(unit.name)
        if state.state != "ready":
            return
        for unit in (one for one in state.units if one.counts):
            one = self.leaders.get(self.mark_of(unit.name))
            died = one.died if one is not None else -math.inf
            if unit.state != "ready":
                rule = "ready at a death" if self._state_before(unit.name) == "ready" else "ready"
                self.breaks(rule, f"saved as ready, and {unit.name} is {unit.state}")
            elif died < self.loop.now:
                rule = "ready" if self.was_up else "ready at first"
                self.breaks(rule, f"saved as ready, and {unit.name} is dead")
        if not self.told_listed:
            self.breaks("ready", "saved as ready, and the frontend does not list the model")

    def _state_before(self, name: str) -> State:
        """What was said last of the unit that has this name now; it may have had another one then."""
        mark = self.mark_of(name)
        then = next((old for old, own in self.marks.items() if own == mark), name)
        return self.units.get(then, "pending") if self.marks.get(then, mark) == mark else "pending"

    def _check_start(self, name: str, unit: Unit) -> None:
        now = self.loop.now
        if self.stop_told < now or self.stopping:
            self.breaks("stop", f"{name} is started after the stop")
        if missing := set(unit.after) - self.passed:
            self.breaks("gates", f"{name} is started before {sorted(missing)} passed")
        if any(one.lives and one.is_marked for one in self.processes if one.unit == name):
            self.breaks("twice", f"{name} is started and lives")
        if self.starts[name] and gpu_memory.shortages(unit.argv, unit.gpus, ()):
            self.breaks("memory", f"{name} is started and its GPU memory is not free")
        before = self.leaders.get(name)
        is_starved = bool(unit.gpus) and before is not None and before.start.how == "no memory"
        if self.starts[name] and not (is_starved or (before is not None and before.to_be_renewed)):
            self.restarts[name].append(now)
            recent = [time for time in self.restarts[name] if now - time < policies.RESTART_WINDOW_S]
            if len(recent) > policies.RESTART_LIMIT:
                self.breaks("restarts", f"{name} is restarted for the {len(recent)}th time in the window")
        if before is not None:
            before.to_be_renewed = False
        self.starts[name] += 1

    def _check_leaving(self, one: Process) -> None:
        """A worker that goes by request gets no requests any more, and has had its time for those it has."""
        member = next((m for m in self.member_list if m.mark == f"start/{one.unit}"), None)
        if member is None or self.stopping or not member.unit.is_worker or member.state.service != "leaving":
            return
        if self._is_up(one) and member.ready.is_set() and not one.withheld:
            self.breaks("lost", f"{one.unit} is stopped while requests are sent to it")
        peers = [m for m in self.member_list if m.unit.role == member.unit.role and m is not member]
        new = [m for m in peers if m.unit.name.startswith(f"{member.unit.name}~")]
        for successor in new:
            process = self.leaders[successor.mark.removeprefix("start/")]
            if process.lives and not process.served:
                self.breaks("proved", f"{one.unit} goes before {process.unit} has answered anything")

    def _check_order(self, going: Process) -> None:
        """Prefill, decode, cache, frontend: each when those before are gone."""
        if not self.stopping:
            return
        turn = {mark: _TURNS[unit.role] for mark, unit in self.known.items()}
        for one in self.processes:
            if one.lives and one.is_marked and turn[one.unit] < turn[going.unit]:
                self.breaks("order", f"{going.unit} is stopped and {one.unit} lives")

    def _check_kill(self, one: Process) -> None:
        """While it runs the supervisor ends what is hung, renewed or unseen, or a frontend that is blind."""
        silent = self.loop.now - one.answered
        beat = self.loop.now - one.beaten if self.unit(one.unit).is_worker else 0.0
        is_hung = silent > PROMPT.hung_s or beat > self._patience(one).hung_s
        unlisted = self.loop.now - one.listed
        is_blind = self.unit(one.unit).role == "frontend" and unlisted > policies.UNLISTED_S
        is_unseen = one.start.how == "unseen" and self.loop.now - one.up > policies.UNREGISTERED_S
        if not (is_hung or is_blind or is_unseen or one.to_be_renewed):
            self.breaks("killed", f"{one.unit} answered {silent:.1f} s ago, listed {unlisted:.1f} s ago")

    async def _quiet(self) -> None:
        """Up to an hour without events; less where all is settled for a while."""
        began, calm_since = self.loop.now, math.inf
        while (
            self.loop.now - began < _HOUR_S
            and self.loop.now - calm_since < _CALM_S
            and self.loop.now - max(began, self.changed) < _STANDSTILL_S
        ):
            calm_since = min(calm_since, self.loop.now) if self._is_calm() else math.inf
            await asyncio.sleep(3.0)
        if self.told_to_stop:
            return
        away = any(time > self.loop.now for time in self.away_until)
        if self.state == "failed":
            if self.error is None:
                self.breaks("quiet", "failed, and no error is said")
            if self.was_up and not any(
                state == "failed" and (self.starts[unit] > policies.RESTART_LIMIT or self._is_without(unit))
                for unit, state in ((self.mark_of(name), state) for name, state in self.units.items())
            ):
                self.breaks("quiet", f"failed without a reason: {self.units}")
        elif "failed" in self.units.values():
            self.breaks("failed stays", f"{self.state} after a quiet time: {self.units}")
        elif self.state != ("degraded" if away else "ready"):
            rule = "quiet"
            if self.state == "degraded" and {"starting", "backoff"} & set(self.units.values()):
                rule = "tries for ever"
            elif any(one.to_be_renewed and one.lives for one in self.leaders.values()):
                rule = "renewed"
            self.breaks(rule, f"{self.state} after a quiet time: {self.units}")
        elif any(not self._is_well(one) for one in self.current()) or not (away or self._lists()):
            self.breaks("quiet", f"{self.state}, and it is not so")
        has_room = self.full_until < self.loop.now - 2 * _KEEP_S
        if self.was_up and not self.published and has_room:
            self.breaks("published", f"{self.state}, and Prometheus does not know of it")
        if self.unsaved and has_room:
            rule = "kept unsaved" if self.life.keep and not self.was_up else "quiet"
            self.breaks(rule, "there is room again, and the state is not saved")
        self._check_server()
        self._check_registered()

    def _check_registered(self) -> None:
        """Whoever is ready is asked."""
        if not all(one.done() for one in self.changes):
            self.breaks("change", "it goes on for ever")
        drained = {one.mark.removeprefix("start/") for one in self.member_list if one.state.service}
        for one in self.current() if self.was_up else ():
            if one.unit in drained:
                if self._is_registered(one):
                    self.breaks("drained", f"{one.unit} is drained, and is sent requests")
                continue
            is_worker = self.unit(one.unit).is_worker
            if is_worker and self._state_of(one) == "ready" and not self._is_registered(one):
                self.breaks("unseen", f"{one.unit} is ready, and nobody asks it anything")

    def _state_of(self, one: Process) -> State:
        name = next(m.unit.name for m in self.member_list if m.mark == f"start/{one.unit}")
        return self.units[name]

    def _check_server(self) -> None:
        """LMCache's server does not connect again to a store that was away: so it must be a new one."""
        server = self.leaders.get("lmcache")
        if server is None or server.to_be_renewed or self.units["lmcache"] != "ready":
            return
        for number, (until, seen) in enumerate(zip(self.away_until, self.seen_away, strict=True)):
            if until <= self.loop.now and server.born < seen:
                self.breaks("server", f"the cache server is older than the return of store {number}")

    def _is_calm(self) -> bool:
        if self.life.keep and self.state == "failed" and not self.was_up:
            return True
        away = any(time > self.loop.now for time in self.away_until)
        if any(math.isfinite(time) and time > self.loop.now for time in self.away_until):
            return False
        return (
            self.state in (("degraded", "failed") if away else ("ready", "failed"))
            and set(self.units.values()) <= {"ready", "failed"}
            and all(one.done() for one in self.changes)
            and all(self._is_well(one) for one in self.current() if self._state_of(one) == "ready")
        )

    # ---- what the supervisor sees

    def _patience(self, one: Process) -> Patience:
        return BUSY if one.is_busy else PROMPT

    def _is_hung(self, one: Process) -> bool:
        return one.lives and one.hung_until > self.loop.now and self.unit(one.unit).is_worker

    def _is_without(self, unit: str) -> bool:
        """Whether memory of a GPU of its own has been held."""
        return any(gpu in self.unit(unit).gpus for gpu, _ in self.held_until)

    @property
    def _is_starved(self) -> bool:
        return self.starved_until > self.loop.now

    def _take_descriptor(self) -> None:
        if self._is_starved:
            raise OSError(errno.EMFILE, "Too many open files")

    def _is_frozen(self, one: Process) -> bool:
        return one.lives and one.frozen_until > self.loop.now

    def _is_up(self, one: Process) -> bool:
        """Whether it answers; that it is ready is another thing."""
        return one.lives and one.up <= self.loop.now and not self._is_frozen(one)

    def _is_well(self, one: Process) -> bool:
        return self._is_up(one) and not self._is_hung(one) and one.refuses_until <= self.loop.now

    def _lists(self) -> bool:
        """Whether a frontend that answers lists the model: a worker of each role has registered."""
        now, front = self.loop.now, self.leaders.get("frontend")
        if front is None or max(front.unlisted_until, self.unlisted_until) > now:
            return False
        registered = [one.unit for one in self.processes if self._is_registered(one, _LEASE_S)]
        roles = {self.unit(name).role for name in registered}
        return roles >= {unit.role for unit in self.plan.workers}

    def _is_registered(self, one: Process, lease_s: float = 0.0) -> bool:
        since = one.up + _REGISTERS_AFTER_S
        is_worker = one.leader is None and self.unit(one.unit).is_worker
        is_seen = not one.forgotten and not one.withheld and one.start.how != "unseen"
        return is_worker and is_seen and since <= self.loop.now < one.died + lease_s

    async def _reach(self, unit: str, patience_s: float = 10.0) -> Process | None:
        """The unit's process if it answers in time."""
        until = self.loop.now + patience_s
        await asyncio.sleep(_LATENCY_S)
        one = self.leaders.get(unit)
        while one is not None and self._is_frozen(one) and self.loop.now < until:
            await asyncio.sleep(1.0)
        if one is None or not self._is_up(one) or self._is_starved:
            return None
        if one.refuses_until <= self.loop.now:
            one.answered = self.loop.now
        return one

    def heartbeat(self, folder: PurePosixPath) -> Heartbeat | None:
        """A ping every 2 s, as the worker's process sends them while it is not frozen itself."""
        one, now = self.leaders.get(folder.name), self.loop.now
        if one is None or now < one.up + 1.0:
            return None
        if self._is_up(one) and not self._is_hung(one):
            one.beaten = now
        return Heartbeat(int(one.beaten * 1e9), not one.is_busy and one.beaten < now)

    async def requests_of(self, unit: Unit) -> observe.Requests | None:
        one = await self._reach(self._unit_at(unit.gate.port))
        if one is None:
            return None
        running = 1.0 if self.loaded_until > self.loop.now and not one.withheld else 0.0
        return observe.Requests(running, float(one.served))

    async def snapshot(self, plan: DeploymentPlan) -> SimpleNamespace:
        await asyncio.sleep(_LATENCY_S)
        running = 1.0 if self.loaded_until > self.loop.now else 0.0
        return SimpleNamespace(gauges={unit.name: {"requests_running": running} for unit in plan.workers})

    # ---- its GPUs

    def _taken(self) -> dict[int, int]:
        """GPU -> MiB in use. What a decode worker has mapped stays in use until it ends."""
        now = self.loop.now
        used: dict[int, int] = defaultdict(int)
        mapped = {other for one in self.processes if one.lives for other in one.mapped}
        for one in self.processes:
            unit = self.unit(one.unit)
            is_there = one.lives or now < one.died + _DRIVER_S or one.identity in mapped
            if one.leader is None and one.born + one.start.after_s <= now and is_there:
                for gpu in unit.gpus:
                    used[int(gpu)] += int((0.4 if unit.argv[1:] else 0.9) * _GPU_MIB)
        for (gpu, _), until in self.held_until.items():
            used[gpu] += _GPU_MIB // 2 if now < until else 0
        return used

    def memory_free(self) -> dict[int, int]:
        used = self._taken()
        return {gpu: max(0, _GPU_MIB - used[gpu]) for gpu in range(4)}

    def held_by(self, gpu: int) -> dict[int, int]:
        is_held = self.held_until.get((gpu, True), -math.inf) > self.loop.now
        return {_OTHER: _GPU_MIB // 2} if is_held else {}

    def _map(self) -> None:
        """A transfer: each decode worker has what the prefill workers hold mapped from then on."""
        there = {one.unit: one for one in self.leaders.values() if one.lives}
        prefill = [one.identity for name, one in there.items() if self.unit(name).role == "prefill"]
        for name, one in there.items():
            if self.unit(name).role == "decode":
                one.mapped.update(prefill)

    def _unit_at(self, port: int) -> str:
        return next(mark for mark, unit in reversed(self.known.items()) if unit.gate.port == port)

    async def gate_is_open(self, gate: Gate) -> tuple[bool, str]:
        unit = self._unit_at(gate.port)
        reached = await self._reach(unit)
        if reached is not None and reached.refuses_until > self.loop.now:
            return False, "HTTP 503"
        one = self.leaders.get(unit)
        return reached is not None or (one is not None and one.start.how == "stranger"), "no"

    async def answers(self, gate: Gate) -> bool:
        return await self._reach(self._unit_at(gate.port)) is not None

    async def lists_model(self, endpoint: str, model: str) -> tuple[bool, str]:
        front = await self._reach("frontend")
        self.told_listed = front is not None and self._lists()
        if front is not None and self.told_listed:
            front.listed = self.loop.now
        return self.told_listed, "" if self.told_listed else "not listed"

    async def complete(self, endpoint: str, model: str, prompt: str = "") -> tuple[bool, str]:
        await asyncio.sleep(0.3)
        if await self._reach("frontend") is None or not self._lists():
            return False, "no answer"
        for role in dict.fromkeys(unit.role for unit in self.plan.workers):
            there = [mark for mark, one in self.leaders.items() if one.lives and self.unit(mark).role == role]
            if self.changed_units:  # in turn, as the router does
                there = [mark for mark in there if self._is_registered(self.leaders[mark])]
                self.turns[role] += 1
            asked = there[self.turns[role] % len(there)] if there else ""
            if not asked or await self._reach(asked, 120.0) is None:
                return False, "no answer"
            self.leaders[asked].served += 1
        self.transfers += 1
        self._map()
        return True, ""

    async def count_transfers(self, plan: DeploymentPlan) -> int:
        await asyncio.sleep(_LATENCY_S)
        return self.transfers

    async def prove_cache(self, plan: DeploymentPlan, chunks: float) -> CacheProbe:
        for _ in range(2):
            done, why = await self.complete("", "")
            if not done:
                raise NotReadyError(why)
            await asyncio.sleep(1.0)
        proof = self.life.proof
        hits = 768 if proof in ("good", "wrong") else 0
        return CacheProbe(900, hits, 0.1, 0.1, proof != "not cleared", proof != "wrong")

    def store_answers(self, store: Any) -> tuple[bool, str]:
        number = store.addresses[0][1] - 6379
        if self.away_until[number] > self.loop.now or self._is_starved:
            self.seen_away[number] = self.loop.now
            return False, "nothing answers there"
        return True, ""

    def store_run(self, store: Any) -> str:
        number = store.addresses[0][1] - 6379
        return "" if self.away_until[number] > self.loop.now else str(self.away_until[number])

    # ---- what the supervisor does

    def spawn(self, argv: tuple[str, ...], environ: dict[str, str], cwd: object, log: object) -> Identity:
        mark = environ[MARK].removeprefix("start/")
        unit = next((one.unit for one in self.member_list if one.mark == environ[MARK]), self.known.get(mark))
        assert unit is not None
        self.known[mark] = unit
        self._check_start(mark, unit)
        queue = self.next_starts[unit.name.partition("~")[0]]
        start = queue.pop(0) if queue else Start()
        self._take_descriptor()
        if start.how == "refused":
            raise OSError("cannot be started")
        one = self._new(mark, start, None)
        self.leaders[mark] = one
        if start.helper:
            self._new(mark, start, one)
        if start.how in ("dies", "no memory"):
            self.loop.call_later(start.after_s, self._end, one, start.code)
        return one.identity

    def _new(self, unit: str, start: Start, leader: Process | None) -> Process:
        identity = Identity(_SUPERVISOR.pid + 1 + len(self.processes), len(self.processes), _BOOT)
        self.processes.append(Process(identity, unit, start, self.loop.now, leader))
        return self.processes[-1]

    def _find(self, identity: Identity) -> Process | None:
        return next((one for one in self.processes if one.identity == identity and one.lives), None)

    def send(self, identity: Identity, number: signal.Signals) -> bool:
        one = self._find(identity)
        if one is None:
            return False
        self._take_descriptor()
        if one.is_marked:
            self._check_order(one)
        if number == signal.SIGKILL:
            if not self.stopping:
                self._check_kill(one)
            self._end(one, -signal.SIGKILL)
            return True
        self._check_leaving(one)
        one.to_be_renewed = not self.stopping
        # A worker that is loading hears it when it has loaded.
        when = max(self.loop.now, one.up if self.unit(one.unit).is_worker else 0.0)
        if not one.deaf and when < math.inf:
            self.loop.call_at(when + (one.start.leaves_s or 0.0), self._leave, one)
        return True

    def kill_members(self, mark: str, leader: Identity | None, found: set[str]) -> list[Identity]:
        for identity in self.members(mark):
            one = self._find(identity)
            assert one is not None
            self._check_order(one)
            self._end(one, -signal.SIGKILL)
        return []

    def reap(self) -> dict[int, int]:
        ended, self.reapable = self.reapable, {}
        return ended

    def members(self, mark: str, leader: Identity | None = None) -> list[Identity]:
        self._take_descriptor()
        there = [one for one in self.processes if one.lives and one.is_marked]
        return [one.identity for one in there if mark in (f"start/{one.unit}", "start/")]

    def children(self, pid: int) -> list[int]:
        """Those whose parent has died are handed to the supervisor."""
        self._take_descriptor()
        there = [one for one in self.processes if one.lives and (one.leader is None or not one.leader.lives)]
        return [one.identity.pid for one in there]

    def identify(self, pid: int) -> Identity | None:
        if self._is_starved:
            return None  # as the real one
        pids = {one.identity.pid: one.identity for one in self.processes if one.lives}
        return {**pids, _SUPERVISOR.pid: _SUPERVISOR}.get(pid)

    def listens(self, port: int, identities: Iterable[Identity]) -> bool:
        self._take_descriptor()
        one = self.leaders.get(self._unit_at(port))
        return one is not None and one.identity in list(identities) and one.up <= self.loop.now

    def write_state(self, state: DeploymentState) -> None:
        """What could not be written counts as said: a full disk is no fault of the supervisor's."""
        json.dumps(asdict(state))
        self._check_state(state)
        now = {unit.name: unit.state for unit in state.units}
        self.marks = {unit.name: self.mark_of(unit.name) for unit in state.units}
        if (state.state, now) != (self.state, self.units):
            self.changed = self.loop.now
        self.state, self.units, self.error = state.state, now, state.error
        self.failure = self.failure or (state.error if state.state == "failed" else None)
        if state.state == "ready":
            self.first_ready = min(self.first_ready, self.loop.now)
        if self.was_up and not self.told_to_stop:
            for role in {unit.role for unit in self.plan.workers}:
                ready = sum(unit.role == role and unit.state == "ready" for unit in state.units)
                self.least_ready[role] = min(ready, self.least_ready.get(role, ready))
        self.stopping |= state.state == "stopping"
        self.unsaved = self.full_until > self.loop.now
        if self.unsaved:
            raise PreflightError("no space left on device")

    def write_targets(self, groups: list[dict[str, Any]]) -> None:
        if self.full_until > self.loop.now:
            raise OSError(errno.ENOSPC, "No space left on device")
        counting = [one.unit.name for one in self.member_list if one.state.counts]
        there = [group["labels"]["unit"] for group in groups]
        if self.stopping or (self.changed_units and there != counting) or len(groups) < 2:
            self.breaks("published", f"{groups} while it stops or without a unit")
        self.published = True

    def remove_targets(self) -> None:
        self.published = False

    def remove_folders(self, *folders: PurePosixPath) -> list[str]:
        alive = [one.unit for one in self.processes if one.lives]
        if PurePosixPath("/nowhere/store") in folders and alive:
            self.breaks("order", f"the store is removed and {alive} live")
        return []

    def follow(self, state: State, event: Event) -> State:
        if (state, event) not in TABLE:
            self.breaks("table", f"a unit that is {state} meets {event}")
            raise InternalError(f"{state} {event}")
        return TABLE[state, event]


class _Log:
    """What a unit has logged, as `LogWatch` tells it."""

    def __init__(self, world: World, log: PurePosixPath) -> None:
        self._world, self._unit = world, world.mark_of(log.stem)
        self.phase = "importing"
        self.degraded = self.no_kernels = self.port_lost = self.no_gpu_memory = ""

    def read(self) -> None:
        one, now = self._world.leaders.get(self._unit), self._world.loop.now
        if one is None or now < one.born + one.start.after_s:
            return
        self.phase = "registering"
        self.no_gpu_memory = "CUDA out of memory" if one.start.how == "no memory" else ""
        self.port_lost = "its port is taken" if one.start.how == "port taken" else ""
        if one.start.how == "no cache" and self._world.unit(one.unit).is_worker:
            self.degraded = "operate in degraded mode"

    def lost_lease(self) -> bool:
        return False


class _Registrations:
    def __init__(self, world: World) -> None:
        self._world = world

    def keep(self, living: Callable[[], list[Identity]]) -> None:
        living()

    def forget_the_dead(self, living: Iterable[Identity]) -> None:
        self._world._take_descriptor()
        there = set(living)
        for one in self._world.processes:
            one.forgotten |= one.identity not in there

    def withhold(self, owners: Iterable[Identity]) -> None:
        self._set(owners, True)

    def hand_back(self, owners: Iterable[Identity]) -> None:
        self._set(owners, False)

    def _set(self, owners: Iterable[Identity], withheld: bool) -> None:
        there = set(owners)
        for one in self._world.processes:
            if one.identity in there:
                one.withheld = withheld

    def has_any(self, owners: Iterable[Identity]) -> bool:
        there = set(owners)
        return any(one.identity in there and self._world._is_registered(one) for one in self._world.processes)

    def has_never_seen(self, owners: Iterable[Identity]) -> bool:
        there = set(owners)
        is_withheld = any(one.identity in there and one.withheld for one in self._world.processes)
        return not is_withheld and not self.has_any(there)

    def texts(self, kind: str) -> list[str]:
        assert kind in ("mdc", "instances")
        return []  # no model cards, so that none differ


class _Over:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _NoThread:
    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        pass


class _Path(PurePosixPath):
    def replace(self, target: Any) -> Any:
        return target


def _folder(world: World) -> SimpleNamespace:
    here = PurePosixPath("/nowhere")
    body = {"plan": {**world.plan.as_json(), "timeout_s": world.life.timeout_s}}
    return SimpleNamespace(
        path=here,
        store=here / "store",
        socket=SimpleNamespace(name="control.sock", unlink=lambda: None, chmod=lambda mode: None),
        name=world.plan.name,
        log=lambda unit: _Path(here / "logs" / f"{unit}.log"),
        work=lambda unit: here / "run" / unit,
        read_plan=lambda: {**body, "start_id": "start", "keep": world.life.keep},
        is_whole=lambda: True,
        write_plan=lambda body: None,
        write_state=world.write_state,
        targets_file=here / "targets.json",
        write_targets=world.write_targets,
        remove_targets=world.remove_targets,
    )


# All that deal with the world.
PARTS = (
    card_watch,
    changing,
    control,
    deployment,
    draining,
    etcd_watch,
    failures,
    gpu_memory,
    membership,
    readiness,
    restarting,
    run,
    silences,
    starting,
    stopping,
    store_watch,
    temporary,
    watching,
)


def install(world: World, patch: pytest.MonkeyPatch) -> None:
    """Put the world where the supervisor would find the real one."""
    loop = world.loop

    async def to_thread(work: Callable[..., Any], *arguments: Any) -> Any:
        result = work(*arguments)  # it is done even if nobody waits for it any more
        await asyncio.sleep(2 * _LATENCY_S)
        return result

    async def no_server(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(close=lambda: None, sockets=())

    def sleep(seconds: float) -> None:
        loop.now += seconds

    def nothing(*_: Any, **__: Any) -> None:
        pass

    names = {
        "asyncio": _Over(asyncio, to_thread=to_thread, start_unix_server=no_server),
        "os": SimpleNamespace(getpid=lambda: _SUPERVISOR.pid, environ={}, chdir=nothing),
        "time": SimpleNamespace(monotonic=loop.time, time=lambda: 1.8e9 + loop.now, sleep=sleep),
        "random": random.Random(world.life.seed),
        "threading": _Over(threading, Thread=_NoThread),
        "process_control": SimpleNamespace(
            become_subreaper=nothing,
            raise_descriptor_limit=nothing,
            spawn=world.spawn,
            send=world.send,
            reap=world.reap,
            how_it_ended=process_control.how_it_ended,
        ),
        "cleanup": SimpleNamespace(
            kill_members=world.kill_members,
            remove_folders=world.remove_folders,
            remove_files=lambda files: {},
            describe=lambda identities: [str(one.pid) for one in identities],
        ),
        "probes": SimpleNamespace(
            ANSWERS=probes.ANSWERS,
            SILENT=probes.SILENT,
            gate_is_open=world.gate_is_open,
            answers=world.answers,
            lists_model=world.lists_model,
            complete=world.complete,
            store_answers=world.store_answers,
            store_run=world.store_run,
        ),
        "observe": _Over(
            observe,
            transfers=world.count_transfers,
            snapshot=world.snapshot,
            requests_of=world.requests_of,
        ),
        "revisions": SimpleNamespace(
            read=lambda folder, number: world.revisions[number],
            settle=lambda folder, number, outcome: None,
            INTERRUPTED="interrupted",
            DONE="done",
        ),
        "engine_heartbeat": _Over(engine_heartbeat, read=world.heartbeat),
        "gpus": SimpleNamespace(
            memory=lambda: [
                GpuMemory(
                    Gpu(gpu, f"GPU-{gpu}", "a GPU", _GPU_MIB), free, _GPU_MIB - free, world.held_by(gpu)
                )
                for gpu, free in world.memory_free().items()
            ],
        ),
        "processes": SimpleNamespace(
            identify=lambda pid: pid,
            command_line=lambda pid: "another program",
            require_descriptors=lambda count: world._take_descriptor(),
        ),
        "cache_probe": _Over(cache_probe, run=world.prove_cache),
        "files": SimpleNamespace(bound=nothing, set_aside=lambda log: log),
        "ports": SimpleNamespace(holder=lambda port: "nobody"),
        "models": None,
        "say": nothing,
        "tempfile": SimpleNamespace(
            gettempdir=lambda: "/tmp", mkdtemp=lambda prefix, dir: "/nowhere/sockets"
        ),
        "DeploymentDir": lambda name: _folder(world),
        "Registrations": lambda store: _Registrations(world),
        "LogWatch": lambda log: _Log(world, log),
        "last_lines": lambda log: [],
        "root_cause": lambda log: "",
        "identify": world.identify,
        "is_running": lambda identity: world._find(identity) is not None and not world._is_starved,
        "members": world.members,
        "members_of_each": lambda units: {mark: world.members(mark) for mark in units},
        "traces_of_files": lambda: (0, frozenset()),
        "memory_changed_ns": lambda: 0,
        "children": world.children,
        "listens": world.listens,
        "files_of": lambda pids: {},
    }
    for name, value in names.items():
        there = [part for part in PARTS if hasattr(part, name)]
        assert there, name
        for part in there:
            patch.setattr(part, name, value)
    patch.setattr(lifecycle, "follow", world.follow)
    # What is kept alive in the store is not played, and takes half of the time.
    patch.setattr(lifecycle, "KEEP_INTERVAL_S", _KEEP_S)
    failure = run._failure

    def no_other_failure(error: Exception) -> DynamoctlError:
        if not run._own_errors(error):
            world.breaks("exception", repr(error))
        return failure(error)

    patch.setattr(run, "_failure", no_other_failure)


def live(life: Life, change: Callable[[pytest.MonkeyPatch], object] = lambda patch: None) -> World:
    """One life from the start to the end, and every rule about its end."""
    loop = VirtualLoop()
    try:
        with pytest.MonkeyPatch.context() as patch:
            world = World(life, loop)
            install(world, patch)
            change(patch)
            supervised = world.supervised = Deployment(world.plan.name)
            playing = loop.create_task(world.play())
            try:
                code = loop.run_until_complete(run.run(supervised))
                _check_end(world, supervised, code)
            except EndlessError:
                world.breaks("stop" if world.told_to_stop else "ends", f"it does not end: {world.units}")
            except Exception as error:
                world.breaks("raises", repr(error))
            _clear_away(loop, playing, world)
            for fault in loop.faults:
                world.breaks("exception", fault)
            return world
    finally:
        loop.close()


def _clear_away(loop: VirtualLoop, playing: asyncio.Task[None], world: World) -> None:
    loop.is_over = True
    playing.cancel()
    for one in world.changes:
        one.cancel()
    loop.run_until_complete(asyncio.sleep(1.0))
    if not playing.cancelled() and (error := playing.exception()) is not None:
        world.breaks("exception", repr(error))
    is_stuck = bool({rule for rule, _ in world.broken} & {"stop", "ends", "raises"})
    for task in asyncio.all_tasks(loop):
        task.cancel()
        if not is_stuck:
            world.breaks("tasks", f"{task} is left")
    loop.run_until_complete(asyncio.sleep(1.0))


def _check_end(world: World, supervised: Deployment, code: int) -> None:
    for one in world.processes:
        if one.lives:
            world.breaks("lives", f"a process of {one.unit}")
    # Without a descriptor nothing can be stopped for sure.
    if (took := world.loop.now - max(world.stop_told, world.starved_until)) > _STOP_S:
        world.breaks("stop", f"it took {took:.0f} s")
    state = supervised.state
    if (state.state, world.state) not in (("stopped", "stopped"), ("failed", "failed")):
        world.breaks("end", f"the last state is {state.state}, saved {world.state}")
    if state.state == "stopped" and code != 0:
        world.breaks("end", f"stopped, with exit code {code}")
    if state.state == "failed" and (state.error is None or not code == state.error["code"] > 0):
        world.breaks("end", f"failed, with exit code {code} and {state.error}")
    if world.published:
        world.breaks("end", "Prometheus is still told of it")
    if code == 0 and not world.told_to_stop:
        world.breaks("end", "it ended without a stop and without a failure")
    for unit in state.units:
        if unit.state not in END:
            world.breaks("end", f"{unit.name} is {unit.state}")


# ---- lives --------------------------------------------------------------------------------

# Some at once, some within one look of a watcher or one pause, some longer than what the supervisor allows.
_PAUSES = (0.0, 0.01, 0.4, 1.0, 3.0, 5.0, 7.0, 12.0, 20.0, 45.0, 100.0, 190.0, 400.0)
_pauses = st.one_of(st.sampled_from(_PAUSES), st.integers(0, 150).map(lambda tenths: tenths / 10))
_lasting = st.sampled_from((0.5, 3.0, 6.0, 15.0, 25.0, 60.0, 175.0, 200.0, 400.0, math.inf))
_codes = st.sampled_from((1, 0, 137, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGTERM))
_good_starts = st.builds(
    Start,
    after_s=st.sampled_from((1.0, 0.0, 0.3, 4.0, 20.0)),
    leaves_s=st.sampled_from((0.2, 0.0, 4.0, 20.0, 40.0, None)),
    helper=st.sampled_from(("", "marked", "stray")),
)
_bad_starts = st.builds(
    Start,
    how=st.sampled_from(
        ("dies", "no memory", "refused", "hangs", "port taken", "stranger", "no cache", "unseen")
    ),
    after_s=st.sampled_from((1.0, 0.0, 0.3, 4.0, 20.0)),
    leaves_s=st.sampled_from((0.2, 0.0, 4.0, None)),
    helper=st.sampled_from(("", "marked", "stray")),
    code=_codes,
)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    plan = PLANS[draw(st.sampled_from(sorted(PLANS)))]
    names = [unit.name for unit in plan.units]
    unit = st.sampled_from(names)
    happening: list[st.SearchStrategy[Happening]] = [
        st.builds(Die, st.lists(unit, min_size=1, max_size=3, unique=True).map(tuple), _codes),
        st.builds(Freeze, unit, _lasting),
        st.builds(Hang, unit, _lasting, st.booleans()),
        st.builds(Refuse, unit, _lasting),
        st.builds(Unlist, _lasting, st.booleans()),
        st.builds(Next, unit, st.one_of(_bad_starts, _good_starts), st.sampled_from((1, 2, 3, 9))),
        st.builds(Deaf, unit),
        st.builds(Full, _lasting),
    ]
    happening.append(st.builds(Starved, _lasting.filter(lambda seconds: seconds <= 60)))
    # Changes by request, more often than by chance.
    role = st.sampled_from([one.role for one in plan.workers])
    some = st.lists(unit, max_size=2, unique=True).map(tuple)
    change = st.builds(Change, role, st.sampled_from((-1, 0, 0, 1, 2)), some, some)
    happening += [change, change, st.builds(Drain, unit, _lasting)]
    if plan.device == "cuda":
        gpus = sorted({int(gpu) for one in plan.units for gpu in one.gpus})
        happening.append(st.builds(Held, st.sampled_from(gpus), _lasting, st.booleans()))
        happening.append(st.builds(Load, _lasting.filter(math.isfinite)))
    if plan.lmcache_tiers:
        happening.append(st.builds(Away, st.integers(0, len(plan.lmcache_tiers) - 1), _lasting))
    # A unit that dies, and how it comes back, go together more often than by chance.
    one_event = st.tuples(_pauses, st.one_of(happening)).map(lambda event: [event])
    comes_back: st.SearchStrategy[list[tuple[float, Happening]]] = st.builds(
        lambda pause, name, code, start, n: [(pause, Next(name, start, n)), (0.0, Die((name,), code))],
        _pauses,
        unit,
        _codes,
        st.one_of(_bad_starts, _good_starts),
        st.sampled_from((1, 2, 4, 9)),
    )
    groups = draw(st.lists(st.one_of(one_event, one_event, comes_back), min_size=1, max_size=7))
    events: list[tuple[float, Happening]] = [event for group in groups for event in group]
    if draw(st.integers(0, 4)) == 4:
        events.insert(draw(st.integers(0, len(events))), (draw(_pauses), Stop()))
    starts = []
    for name in names:
        luck = draw(st.integers(0, 19))
        if luck > 10:
            starts.append((name, draw(_good_starts if luck < 19 else _bad_starts)))
    return Life(
        plan.name,
        tuple(events),
        once_ready=draw(st.integers(0, 3)) < 3,
        starts=tuple(starts),
        keep=draw(st.integers(0, 4)) == 4,
        proof=draw(st.sampled_from(("good", "good", "nothing", "not cleared", "wrong"))),
        seed=draw(st.integers(0, 99)),
    )


# What random lives have shown, each in its shortest form: (the rule that it breaks, the life).
_AT_A_STOP = "a unit that is being restarted dies in the moment of a stop"
_DIES, _HANGS = Start("dies"), Start("hangs")
SHOWN: dict[str, tuple[str, Life]] = {
    # A death is saved before the deployment is degraded: `status` can read ready with a failed unit.
    "a death is saved as ready": ("ready at a death", Life("agg", ((0.0, Die(("worker-0",))),))),
    # Nobody looks between the last completion and ready: with LMCache, for the seconds of its proof.
    "a unit dies during LMCache's proof": (
        "ready at first",
        Life("agg with a server", ((5.5, Die(("worker-0",))),), once_ready=False),
    ),
    # The next death of any other unit makes a deployment that has failed degraded, for good.
    "another unit dies after one was given up": (
        "failed stays",
        Life(
            "two workers",
            ((0.0, Next("worker-0", _DIES, 9)), (0.0, Die(("worker-0",))), (100.0, Die(("worker-1",)))),
        ),
    ),
    # It gets SIGTERM and nothing more, and its end is awaited without a limit.
    "a cache server that is renewed does not hear SIGTERM": (
        "renewed",
        Life("agg with a server", ((0.0, Away(0, 10.0)),), starts=(("lmcache", Start(leaves_s=None)),)),
    ),
    # Its gate passes, the log says no cache, and nobody has told the table that it failed.
    "a worker comes back without LMCache": (
        "table",
        Life("agg with a server", ((0.0, Next("worker-0", Start("no cache"))), (0.0, Die(("worker-0",))))),
    ),
    # How long its predecessor did not list the model is counted on.
    "a frontend dies while it does not list the model": (
        "killed",
        Life("agg", ((0.0, Unlist(60.0, False)), (12.0, Die(("frontend",)))), seed=0),
    ),
    # Only a server that is ready when the store comes back is renewed.
    "a cache server starts while its store is away": (
        "server",
        Life(
            "agg with a server",
            ((0.0, Next("lmcache", Start(after_s=20.0))), (0.0, Away(0, 25.0)), (0.0, Die(("lmcache",)))),
        ),
    ),
    # Lost stores are counted, not compared.
    "a store comes back as another goes away": (
        "server",
        Life("agg with a server", ((0.0, Away(0, 10.0)), (9.9, Away(1, math.inf)))),
    ),
    # Four restarts of such length are never within the window. The default is 1800 s.
    "a unit hangs at each restart, and the deadline is long": (
        "tries for ever",
        Life("agg", ((0.0, Next("worker-0", _HANGS, 99)), (0.0, Die(("worker-0",)))), timeout_s=300.0),
    ),
    # `wait_for` of Python 3.11 gives a result back where it is cancelled at the same moment. So a task that
    # waits at a gate does not hear of the stop: it restarts its unit, and its end is awaited for ever.
    _AT_A_STOP: (
        "stop",
        Life(
            "agg",
            (
                (0.0, Next("worker-0", _HANGS)),
                (0.0, Die(("worker-0",))),
                (20.0, Stop()),
                (0.0, Die(("worker-0",))),
            ),
        ),
    ),
    # What is not saved is saved later, but not after a failure.
    "the disk is full as a start fails that is kept": (
        "kept unsaved",
        Life("agg", ((0.0, Full(3.0)),), once_ready=False, keep=True, starts=(("worker-0", _DIES),)),
    ),
    # It is up and in no store: the frontend is not blind, and there is nothing to put back.
    "a worker's registration is lost before it was seen": (
        "quiet",
        Life("disagg", ((0.0, Next("prefill-0", Start("unseen"))), (0.0, Die(("prefill-0",))))),
    ),
    # The watchers go on; the end, and the task that restarts a unit, do not.
    "out of descriptors at a stop": ("raises", Life("agg", ((0.0, Starved(60.0)), (10.0, Stop())))),
    # A peer that could not be told to let go was taken for one that is on its way.
    "out of descriptors as a peer is to let go of GPU memory": (
        "tries for ever",
        Life("two prefill workers", ((0.0, Die(("prefill-0",))), (20.0, Starved(25.0)))),
    ),
    "out of descriptors at a death": (
        "exception",
        Life("agg", ((0.0, Starved(5.0)), (1.0, Die(("worker-0",))))),
    ),
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_random_lives_have_shown(what: str) -> None:
    rule, life = SHOWN[what]
    assert [how for broken, how in live(life).broken if broken == rule] == []


@settings(repeatable, max_examples=200)
@given(lives())
def test_any_life(life: Life) -> None:
    assert live(life).broken == []


# ---- GPU memory ---------------------------------------------------------------------------


def test_who_has_the_memory_mapped_is_restarted_too_and_that_is_one_recovery() -> None:
    world = live(Life("disagg on two GPUs", ((0.0, Die(("prefill-0",))),) * 1))
    assert world.broken == []
    assert (world.starts["decode-0"], world.starts["prefill-0"]) == (2, 2)
    assert len(world.restarts["decode-0"]) == 0


@pytest.mark.parametrize("plan", ["agg on a GPU", "disagg on two GPUs"])
def test_where_nothing_is_mapped_nobody_else_is_restarted(plan: str) -> None:
    """An aggregated worker's memory, or a decode worker's, is free a moment after its end."""
    worker = "worker-0" if plan == "agg on a GPU" else "decode-0"
    world = live(Life(plan, ((0.0, Die((worker,))),)))
    assert world.broken == []
    assert {unit: count for unit, count in world.starts.items() if count > 1} == {worker: 2}


@pytest.mark.parametrize("by_others", [False, True])
def test_memory_that_is_held_for_a_while_is_waited_for(by_others: bool) -> None:
    world = live(Life("agg on a GPU", ((0.0, Held(0, 300.0, by_others)), (0.0, Die(("worker-0",))))))
    assert world.broken == []
    assert world.starts["worker-0"] == 2


@pytest.mark.parametrize(
    ("by_others", "who"), [(False, "no process that can be seen"), (True, "process 99 (another program)")]
)
def test_memory_that_is_held_for_ever_fails_it_and_says_by_whom(by_others: bool, who: str) -> None:
    world = live(Life("agg on a GPU", ((0.0, Held(0, math.inf, by_others)), (0.0, Die(("worker-0",))))))
    assert world.broken == []
    assert world.failure is not None
    assert world.failure["message"].startswith("worker-0 cannot start: it has waited 10 min 0 s for ")
    assert world.failure["message"].endswith(f"held by {who}")
    assert "end the process that holds it" in world.failure["hint"]
    assert world.starts["worker-0"] == 1


def test_of_two_decode_workers_one_serves_on_while_the_other_lets_go() -> None:
    world = live(Life("two of each", ((0.0, Load(1000.0)), (0.0, Die(("prefill-0",))))))
    assert world.broken == []
    assert world.starts == {**dict.fromkeys(world.starts, 2), "frontend": 1, "prefill-1": 1}
    assert world.least_ready["decode"] == 1
    assert world.least_ready["prefill"] == 1


def test_the_only_decode_worker_serves_on_beside_the_other_prefill_worker_until_it_is_quiet() -> None:
    dies = (0.0, Die(("prefill-0",)))
    world = live(Life("two prefill workers", ((0.0, Load(2000.0)), dies, (1900.0, Die(("frontend",))))))
    assert world.broken == []
    # Waiting for a quiet moment has no limit.
    assert world.born_after("decode-0", 2000.0)
    assert world.starts["decode-0"] == world.starts["prefill-0"] == 2
    assert world.starts["prefill-1"] == 1


def test_starts_that_end_for_want_of_memory_do_not_count_as_failures() -> None:
    """Somebody took it between the look and the start: three times, and each of the limit's after that."""
    starved = (0.0, Next("worker-0", Start("no memory"), 3 + policies.RESTART_LIMIT - 1))
    world = live(Life("agg on a GPU", (starved, (0.0, Die(("worker-0",))))))
    assert world.broken == []
    assert world.failure is None
    assert world.starts["worker-0"] == 2 + 3 + policies.RESTART_LIMIT - 1


# ---- can the rules be broken? -------------------------------------------------------------


def _set(where: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], object]:
    return lambda patch: patch.setattr(where, name, value)


def _there(part: Any, name: str) -> Any:
    """What `install` has put into a part of the supervisor: not what the name stands for elsewhere."""
    return getattr(part, name)


def _kills_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_there(deployment, "cleanup"), "kill_members", lambda mark, leader, found: [])


def _leaves_strays(patch: pytest.MonkeyPatch) -> None:
    _kills_nothing(patch)
    patch.setattr(stopping, "children", lambda pid: [])


def _waits_for_no_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gpu_memory, "until_free", lambda *_: asyncio.sleep(0))
    patch.setattr(gpu_memory, "is_short", lambda *_: asyncio.sleep(0, False))


async def _starts_at_once(supervised: Deployment, member: Any) -> None:
    starting.start(supervised, member)
    await starting.gate(supervised, member)


async def _nothing_later(*_: Any, **__: Any) -> None:
    """Instead of what should be done."""


_DEAF = tuple((unit, Start(leaves_s=None)) for unit in ("decode-0", "prefill-0", "worker-0"))
_DIES_OFTEN = ((60.0, Die(("worker-0",))),) * 5
WRONG: dict[str, tuple[str, Life, Callable[[pytest.MonkeyPatch], object]]] = {
    "restarts without a limit": (
        "restarts",
        Life("agg", _DIES_OFTEN),
        _set(lifecycle, "may_restart", lambda times, now, tries: True),
    ),
    "kills nothing, and leaves strays": ("lives", Life("agg", starts=_DEAF), _leaves_strays),
    "kills nothing": ("order", Life("disagg", starts=_DEAF), _kills_nothing),
    "kills nothing before a restart": (
        "twice",
        Life("agg", ((0.0, Die(("worker-0",))),), starts=(("worker-0", Start(helper="marked")),)),
        _kills_nothing,
    ),
    "stops in the order of the start": (
        "order",
        Life("disagg"),
        _set(policies, "STOP_ORDER", policies.STOP_ORDER[::-1]),
    ),
    "starts without waiting": (
        "gates",
        Life("disagg"),
        _set(starting, "start_in_turn", _starts_at_once),
    ),
    "sees no death": ("ready", Life("agg", ((0.0, Die(("worker-0",))),)), _set(Deployment, "reap", id)),
    "does not ask whether a unit answers": (
        "ready",
        Life("agg", ((0.0, Freeze("worker-0", 400.0)), (300.0, Die(("worker-0",))))),
        _set(silences, "PROMPT", Patience(math.inf, math.inf)),
    ),
    "does not ask whether an engine answers": (
        "ready",
        Life("agg", ((0.0, Hang("worker-0", 400.0)),)),
        lambda patch: patch.setattr(_there(silences, "engine_heartbeat"), "read", lambda folder: None),
    ),
    "takes a step for a hang": (
        "killed",
        Life("agg", ((0.0, Hang("worker-0", 100.0, is_busy=True)),)),
        _set(lifecycle, "busy", lambda hang_timeout_s: PROMPT),
    ),
    "waits for no GPU memory": (
        "memory",
        Life("disagg on two GPUs", ((0.0, Die(("prefill-0",))),)),
        _waits_for_no_memory,
    ),
    "has nobody let its GPU memory go": (
        "quiet",
        Life("disagg on two GPUs", ((0.0, Die(("prefill-0",))),)),
        _set(gpu_memory, "_PEERS", {}),
    ),
    "does not ask whether the model is listed": (
        "quiet",
        Life("agg", ((0.0, Unlist(math.inf, False)),)),
        _set(run, "_WATCHES", [watch for watch in run._WATCHES if watch is not watching.watch_lists]),
    ),
    "does not ask whether the workers are registered": (
        "unseen",
        Life("two workers", ((0.0, Next("worker-0", Start("unseen"))), (0.0, Die(("worker-0",))))),
        _set(run, "_WATCHES", [one for one in run._WATCHES if one is not watching.watch_registrations]),
    ),
    "is ready whatever it is told": (
        "ready",
        Life("agg", ((0.0, Unlist(15.0)),)),
        _set(Deployment, "degrade_or_recover", lambda self: setattr(self.state, "state", "ready")),
    ),
    "is impatient": (
        "killed",
        Life("agg", ((0.0, Freeze("worker-0", 30.0)),)),
        _set(silences, "PROMPT", Patience(10.0, 10.0)),
    ),
    "knows fewer states": (
        "table",
        Life("agg", ((0.0, Die(("worker-0",))),)),
        lambda patch: patch.delitem(TABLE, ("failed", "retry")),
    ),
    "forgets what it has saved": (
        "path",
        Life("agg"),
        lambda patch: patch.setitem(TABLE, ("stopping", "ended"), "ready"),
    ),
    "stops a worker that is still sent requests": (
        "lost",
        Life("two workers", ((0.0, Change("agg", -1)),)),
        _set(membership, "empty", _nothing_later),
    ),
    "counts a worker that has answered nothing": (
        "proved",
        Life("two workers", ((0.0, Change("agg", 0, ("worker-0",))),)),
        _set(membership, "_answers", _nothing_later),
    ),
    "leaves a new unit that has failed where it is": (
        "change",
        Life("agg", ((0.0, Next("worker-1", Start("dies"))), (0.0, Change("agg", 1)))),
        _set(membership, "_leave_again", _nothing_later),
    ),
    "takes nothing back": (
        "change",
        Life("agg", ((0.0, Next("worker-2", Start("dies"))), (0.0, Change("agg", 2)))),
        _set(changing, "_undo", _nothing_later),
    ),
    "forgets what it has removed, and not its process": (
        "left",
        Life("two workers", ((0.0, Change("agg", -1)),)),
        _set(_there(membership, "stopping"), "stop", lambda *_: asyncio.sleep(0.0, [])),
    ),
    "forgets that a worker is drained when it dies": (
        "drained",
        Life("two workers", ((0.0, Drain("worker-0", math.inf)), (9.0, Die(("worker-0",))))),
        _set(watching, "_keep_drained", lambda deployment: None),
    ),
    "takes the store away first": (
        "order",
        Life("agg"),
        _set(
            stopping,
            "take_down",
            lambda one: asyncio.sleep(0.0, _there(stopping, "cleanup").remove_folders(one.folder.store)),
        ),
    ),
    "ends with another code": (
        "end",
        Life("agg", starts=(("worker-0", _DIES),)),
        _set(NotReadyError, "exit_code", 0),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_supervisor_that_is_wrong_is_found_out(what: str) -> None:
    rule, life, change = WRONG[what]
    assert rule not in {broken for broken, _ in live(life).broken}
    assert rule in {broken for broken, _ in live(life, change).broken}
