"""One deployment while it is supervised: its plan, its units, and what is known of them.

`state.json` is written here and nowhere else while the supervisor lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Sequence

from dynamoctl import patches
from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.export import prometheus
from dynamoctl.host.files import FileIdentity, Files, files_from_json, identify_file, is_there
from dynamoctl.host.processes import Identity, files_of, identify, is_running, members, members_of_each
from dynamoctl.logs.phases import LogWatch
from dynamoctl.monitoring.etcd import Etcd
from dynamoctl.planner.plan import DeploymentPlan, Unit
from dynamoctl.processes import cleanup, process_control
from dynamoctl.state import DeploymentState, Folder, UnitState
from dynamoctl.supervisor import lifecycle
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.leases import Leases
from dynamoctl.supervisor.registrations import Registrations

# "/tmp" and a little more.
_LONGEST_TEMPORARY = 10
_SHORT_TEMPORARY = "/tmp"  # noqa: S108  (`mkdtemp` makes a folder that is nobody else's)
# How often a unit that is to be renewed and does not end by itself is killed, and how far apart, in seconds.
_KILLS, _KILL_INTERVAL_S = 60, 1.0


class Member:
    """A unit at run time.

    Attributes:
        mark: what its processes carry in their environment.
        ready: set while its gate has passed.
        ended: set once its first process has ended.
        exit_code: how it ended (as `subprocess` counts: the negative of a signal); None while it lives.
        restarts: when it was restarted, in seconds of the monotonic clock.
        ready_since: when its gate passed the last time, in seconds of the monotonic clock; 0 where it has
            not.
        renewed: whether it was ended by us, to be started again: no failure of its own.
        is_deaf: whether it is its own process that does not answer, while it is `unresponsive`.
        stranger: whether another process has answered at its gate.
    """

    def __init__(self, unit: Unit, state: UnitState, mark: str) -> None:
        self.unit = unit
        self.state = state
        self.mark = mark
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.exit_code: int | None = None
        self.log: LogWatch | None = None
        self.restarts: list[float] = []
        self.ready_since = 0.0
        self.renewed = False
        self.is_deaf = False
        self.stranger = False


class Deployment:
    """What all parts of the supervisor share.

    Attributes:
        plan: what was asked for.
        keep: whether what has failed stays up.
        state: what `state.json` says.
        members: the units, in the plan's order.
        frontend: the one of them that is the frontend; None where it runs on another host.
        files: what its processes would leave behind: files, and folders of sockets. What an earlier start has
            left, and could not be removed, is among them.
        unsaved: whether the state could not be written the last time.
        listed: whether the frontend lists the model, once all of it is up.
        registrations: Dynamo's file discovery; None where that is etcd.
        leases: the workers' leases in etcd; None where discovery is by files.
        turns: GPU -> held by the unit that is being restarted on it.

    Raises:
        DynamoctlError: there is no plan of this name.
    """

    def __init__(self, name: str) -> None:
        self.folder = Folder(name)
        body = self.folder.read_plan()
        if body is None:
            raise DynamoctlError(f"there is no plan in {self.folder.path}")
        self._body = body
        self.plan = DeploymentPlan.from_json(body["plan"])
        self.keep = bool(body.get("keep"))
        self.start_id = str(body["start_id"])
        self.state = DeploymentState(
            name=name,
            mode=self.plan.mode,
            model=self.plan.model,
            endpoint=self.plan.endpoint,
            start_id=self.start_id,
            supervisor=identify(os.getpid()),
            created_at=time.time(),
            warnings=list(body.get("warnings", [])),
        )
        self.members: list[Member] = []
        for unit in self.plan.units:
            state = UnitState(unit.name, unit.role, gpus=list(unit.gpus), ports=dict(unit.ports))
            state.patches = [patch.name for patch in patches.switched_on(unit.env)]
            self.state.units.append(state)
            self.members.append(Member(unit, state, f"{self.start_id}/{unit.name}"))
        self.frontend = next((one for one in self.members if one.unit.role == "frontend"), None)
        self.files: Files = files_from_json(body.get("earlier_files", {}))
        self.state.record_files(self.files)
        self.turns: dict[int | str, asyncio.Lock] = {}
        self.unsaved = False
        self.listed = True
        self.registrations = Registrations(self.folder.store) if self.plan.discovery == "file" else None
        # In etcd a registration has a lease, which its own process keeps up.
        self.leases: Leases | None = None
        if self.plan.discovery == "etcd":
            self.leases = Leases(self.etcd, self.namespace, self.plan.address)
        self._sockets = ""
        self._said = ""  # the state that the log has told of
        self._is_published = False  # whether Prometheus has been told of it
        self._unpublished = ""  # why not

    # ---- its state ------------------------------------------------------------------------

    def follow(self, member: Member, event: lifecycle.Event) -> None:
        """Take note of what has happened to a unit.

        Raises:
            InternalError: it cannot happen to a unit in this state.
        """
        member.state.state = lifecycle.follow(member.state.state, event)

    def degrade(self) -> None:
        """What has failed stays so, whatever ends besides."""
        if self.state.state != "failed":
            self.state.state = "degraded"

    def degrade_or_recover(self) -> None:
        """Degraded is what is up, but not whole."""
        if self.state.state in ("ready", "degraded"):
            units = all(member.state.state == "ready" for member in self.members)
            whole = units and self.listed and not (self.state.lost_stores or self.state.lost_etcd)
            self.state.state = "ready" if whole else "degraded"

    def warn(self, what: str) -> None:
        """Something that `status` shows beside its state; said once."""
        if what not in self.state.warnings:
            self.state.warnings.append(what)
            say(what, "WARN")
            self.save()

    def set_phase_of_frontend(self, why: str) -> None:
        """What the whole waits for, once its units are up."""
        if self.frontend is not None and self.frontend.state.phase != why:
            self.frontend.state.phase = why
            self.save()

    def save(self) -> None:
        """On a full disk the deployment goes on, and what `status` reads is old until there is room."""
        self._tell()
        self._publish()
        try:
            self.folder.write_state(self.state)
        except PreflightError as error:
            if not self.unsaved:
                say(error.message, "WARN")
            self.unsaved = True
        else:
            self.unsaved = False

    def put_back(self) -> None:
        """Write what could not be written, and what was deleted: no command would know of what is up."""
        if not self.folder.is_whole():
            with contextlib.suppress(PreflightError):
                self.folder.write_plan(self._body)
            self._is_published = False
            self.save()
        elif self.unsaved:
            self.save()

    def _tell(self) -> None:
        if self._said != self.state.state:
            self._said = self.state.state
            why = "; ".join([*self.state.lost_stores, *filter(None, (self.state.lost_etcd,))])
            is_well = self._said not in ("degraded", "failed")
            say(
                f"the deployment is {self._said}{f': {why}' if why else ''}",
                "INFO" if is_well else "WARN",
            )

    def _publish(self) -> None:
        """Tell Prometheus what to scrape, from the first time that it is ready until it is taken down."""
        if self._is_published or self.state.state not in ("ready", "degraded"):
            return
        try:
            self.folder.write_targets(prometheus.targets(self.plan))
            self._is_published = True
        except OSError as error:
            why = f"cannot write {self.folder.targets_file}: {error.strerror}"
            if why != self._unpublished:
                say(why, "ERROR")
            self._unpublished = why

    # ---- its processes --------------------------------------------------------------------

    def reap(self) -> None:
        """Take note of what has ended. (It is called for every SIGCHLD.)"""
        ended = process_control.reap()
        for member in self.members:
            identity = member.state.identity
            if identity is not None and identity.pid in ended and not is_running(identity):
                member.exit_code = ended[identity.pid]
                member.ended.set()

    def processes(self, member: Member) -> list[Identity]:
        """A unit's living processes."""
        return members(member.mark, member.state.identity)

    def processes_of_each(self, of: Sequence[Member]) -> list[list[Identity]]:
        """The living processes of each of these, in one look at the host's."""
        return list(members_of_each({member.mark: member.state.identity for member in of}).values())

    def living(self) -> list[Identity]:
        """The living processes of all units."""
        return [one for member in self.processes_of_each(self.members) for one in member]

    def kill(self, member: Member) -> list[Identity]:
        """End all of a unit's processes. Returns those that stay all the same."""
        return cleanup.kill_members(member.mark, member.state.identity, self.files)

    def end_to_restart(self, member: Member, why: str) -> None:
        """End a unit; it is then started again like one that has died."""
        member.state.phase = why
        say(f"{member.unit.name} is ended, to be started again: {why}", "WARN")
        if member.state.identity is not None:
            process_control.send(member.state.identity, signal.SIGKILL)

    async def renew(self, member: Member, patience_s: float) -> None:
        """End a unit, SIGKILL after so many seconds; it is started again at once, and has not failed.

        Raises:
            OSError: there is no descriptor left to tell it, and nothing has happened.
        """
        if member.state.identity is None or member.ended.is_set():
            return
        process_control.send(member.state.identity, signal.SIGTERM)
        member.renewed = True
        member.ready.clear()
        self.save()
        for _ in range(_KILLS):
            if await within(patience_s, member.ended):
                return
            patience_s = _KILL_INTERVAL_S
            with contextlib.suppress(OSError):  # without descriptors, the next time
                process_control.send(member.state.identity, signal.SIGKILL)

    async def take_out_of_service(self, member: Member, why: str) -> None:
        """A unit lives and does not answer: nobody is sent to it, and `status` says so."""
        is_new = member.state.state == "ready"
        member.state.phase = why
        if is_new:
            self.follow(member, "fell_silent")
            member.ready.clear()
            self.degrade()
            say(f"{member.unit.name} is out of service: {why}", "WARN")
        self.save()
        if member.unit.is_worker:
            own = await asyncio.to_thread(self.processes, member)
            if member.state.state == "unresponsive":  # else they may be its next start's
                await asyncio.to_thread(self._withhold, own)

    async def put_back_into_service(self, member: Member) -> None:
        """It answers again."""
        if member.unit.is_worker:
            await asyncio.to_thread(self._hand_back, member)
        if member.state.state != "unresponsive":
            return  # it has ended meanwhile
        self.follow(member, "answered")
        # Until it is seen: the frontend may not have heard of it yet, or of anything while it stood still.
        self.listed = self.frontend is None
        member.state.phase = ""
        member.ready.set()
        self.degrade_or_recover()
        self.save()
        say(f"{member.unit.name} answers again")

    def _withhold(self, own: Sequence[Identity]) -> None:
        if self.registrations is not None:
            self.registrations.withhold(own)
        if self.leases is not None:
            self.leases.withhold(own)

    def _hand_back(self, member: Member) -> None:
        own = self.processes(member)
        if self.registrations is not None:
            self.registrations.hand_back(own)
        if self.leases is not None:
            self.leases.hand_back(own)

    def forget_the_dead(self) -> None:
        """Take the registrations of dead workers out of discovery."""
        if self.registrations is not None:
            self.registrations.forget_the_dead(self.living())
        if self.leases is not None:
            self.leases.end_those_of_the_dead()

    # ---- what they leave ------------------------------------------------------------------

    def files_now(self, of: Sequence[Member]) -> dict[str, FileIdentity]:
        """What would be left of these, were they killed now."""
        return files_of(one.pid for own in self.processes_of_each(of) for one in own)

    def note_files(self, of: Sequence[Member]) -> bool:
        """What would be left of these, for a `down` without us. Returns whether there is anything new.

        (It runs in a thread, beside those that add to `files`.)
        """
        self.files |= self.files_now(of)
        known = {path: which for path, which in dict(self.files).items() if is_there(path, which)}
        is_new = known != self.state.recorded_files
        self.state.record_files(known)
        return is_new

    def sockets(self) -> dict[str, str]:
        """A folder of vLLM's sockets: killed, it leaves them behind, and in the folder for temporary files
        nobody could tell whose they are. Returns the variable that vLLM reads.

        It is in /tmp where the names would be too long in the folder for temporary files: a socket's path may
        have no more than 107 bytes, and LMCache in process has names of 80 in there.
        """
        if self.plan.engine != "vllm":
            return {}
        if not self._sockets:
            parent = tempfile.gettempdir()
            if len(parent) > _LONGEST_TEMPORARY:
                parent = _SHORT_TEMPORARY
            try:
                self._sockets = tempfile.mkdtemp(prefix="dctl-", dir=parent)
            except OSError:
                return {}
            own: Files = {self._sockets: identify_file(self._sockets)}
            self.files |= own
            self.state.record_files(self.state.recorded_files | own)
        return {"VLLM_RPC_BASE_PATH": self._sockets}

    # ---- etcd -----------------------------------------------------------------------------

    @property
    def namespace(self) -> str:
        """Dynamo's namespace, that all units share."""
        return self.plan.units[0].env["DYN_NAMESPACE"]

    def etcd(self) -> Etcd:
        """The etcd of the plan, with the name, password and certificates that every unit sees.

        Raises:
            PreflightError: a certificate cannot be used.
        """
        return Etcd(self.plan.etcd_endpoints, {**os.environ, **self.plan.units[0].env})


async def within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it happens in time. (`wait_for` of Python 3.11 may lose a cancellation here.)"""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
