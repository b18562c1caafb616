"""A supervised deployment: its plan, its units and their state.

While the supervisor lives, only this module writes `state.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace

from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.export import prometheus
from dynamoctl.host.files import FileIdentity, Files, files_from_json, identify_file, is_there
from dynamoctl.host.processes import Identity, files_of, identify, is_running, members, members_of_each
from dynamoctl.monitoring.etcd import Etcd
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.processes import cleanup, process_control
from dynamoctl.state import DeploymentDir, DeploymentState
from dynamoctl.supervisor import lifecycle, temporary
from dynamoctl.supervisor.journal import say
from dynamoctl.supervisor.leases import Leases
from dynamoctl.supervisor.registrations import Registrations
from dynamoctl.supervisor.running_unit import RunningUnit, new_state

# SIGKILLs sent to a unit that is being renewed and does not exit by itself, and seconds between them.
_KILLS, _KILL_INTERVAL_S = 60, 1.0


class Deployment:
    """The state that all parts of the supervisor share.

    Attributes:
        folder: the deployment's folder.
        plan: the plan that this supervisor runs.
        keep: whether units stay up after a failure (`up --keep`).
        start_id: id of this start; the mark of each of its processes begins with it.
        state: the content of `state.json`.
        members: the units, in the plan's order.
        frontend: the frontend among the units; None if it runs on another host.
        files: files and socket directories that the processes would leave behind. Includes leftovers of an
            earlier start that could not be removed.
        turns: GPU -> lock that the unit that restarts on this GPU holds.
        changing: held while the deployment is changed by request.
        group: the tasks that run while it is up; None before and after that.
        unsaved: whether the last attempt to write the state failed.
        listed: whether the frontend lists the model, once all units are up.
        registrations: Dynamo's file discovery; None if discovery uses etcd.
        leases: the workers' leases in etcd; None if discovery uses files.
        record_lease: lease of the record of this host in etcd; empty if there is none.

    Raises:
        DynamoctlError: the folder has no plan.
    """

    def __init__(self, name: str) -> None:
        self.folder = DeploymentDir(name)
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
            revision=int(body.get("revision", 0)),
        )
        self.members: list[RunningUnit] = []
        for unit in self.plan.units:
            self.enlist(RunningUnit(unit, new_state(unit), f"{self.start_id}/{unit.name}"))
        self._first = self.plan.units[0]  # it has the settings of discovery, as all units have
        self.frontend = next((member for member in self.members if member.unit.role == "frontend"), None)
        self.files: Files = files_from_json(body.get("earlier_files", {}))
        self.state.record_files(self.files)
        self.turns: dict[int | str, asyncio.Lock] = {}
        self.changing = asyncio.Lock()
        self.group: asyncio.TaskGroup | None = None
        self.unsaved = False
        self.listed = True
        self.registrations = Registrations(self.folder.store) if self.plan.discovery == "file" else None
        # In etcd, a registration has a lease that the registering process renews.
        self.leases: Leases | None = None
        self.record_lease = ""
        if self.plan.discovery == "etcd":
            self.leases = Leases(self.etcd, self.namespace, self.plan.address)
        self._sockets = ""
        self._logged_state = ""  # the deployment's state that the log reported last
        self._is_outdated = False  # whether `plan.json` could not be written
        self._is_published = False  # whether the Prometheus targets are written
        self._unpublished = ""  # the last reported reason why they are not

    # ---- state ----------------------------------------------------------------------------

    def follow(self, member: RunningUnit, event: lifecycle.Event) -> None:
        """Apply an event to a unit's state (`lifecycle.follow`).

        Raises:
            InternalError: the event cannot happen to a unit in this state.
        """
        member.state.state = lifecycle.follow(member.state.state, event)

    def degrade(self) -> None:
        """Set the deployment to `degraded`, unless it has failed."""
        if self.state.state != "failed":
            self.state.state = "degraded"

    def degrade_or_recover(self) -> None:
        """Set a deployment that is up to `ready` if all of it works, otherwise to `degraded`."""
        if self.state.state in ("ready", "degraded"):
            all_ready = all(member.state.state == "ready" for member in self.members if member.state.counts)
            is_whole = all_ready and self.listed and not self.state.problems
            self.state.state = "ready" if is_whole else "degraded"

    def warn(self, what: str) -> None:
        """Add a warning that `status` shows, and log it. A repeated warning is ignored."""
        if what not in self.state.warnings:
            self.state.warnings.append(what)
            say(what, "WARN")
            self.save()

    def set_phase_of_frontend(self, why: str) -> None:
        """Show, as the frontend's phase, what the deployment waits for once its units are up."""
        if self.frontend is not None and self.frontend.state.phase != why:
            self.frontend.state.phase = why
            self.save()

    def save(self) -> None:
        """Write `state.json`. If that fails (full disk), the deployment runs on with an outdated file."""
        self._log_state()
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
        """Write plan and state again if they were deleted or not written: without them no command works."""
        if self._is_outdated or not self.folder.is_whole():
            self._write_plan()
            self._is_published = False
            self.save()
        elif self.unsaved:
            self.save()

    def commit(self, plan: DeploymentPlan | None = None, **about: object) -> None:
        """Make the units that run now the plan, in `plan.json` and for Prometheus too.

        Args:
            plan: where all but the units is from; by default the plan as it is.
            about: keys of `plan.json` beside the plan that change with it.
        """
        units = tuple(member.unit for member in self.members if member.state.counts)
        self.plan = replace(plan or self.plan, units=units)
        self._body |= {"plan": self.plan.as_json(), **about}
        self.state.revision = int(self._body.get("revision", 0))
        self._write_plan()
        self._is_published = False
        self.degrade_or_recover()
        self.save()

    def _write_plan(self) -> None:
        try:
            self.folder.write_plan(self._body)
            self._is_outdated = False
        except PreflightError as error:
            say(error.message, "WARN")
            self._is_outdated = True

    def _log_state(self) -> None:
        if self._logged_state != self.state.state:
            self._logged_state = self.state.state
            why = "; ".join(self.state.problems)
            is_well = self._logged_state not in ("degraded", "failed")
            say(
                f"the deployment is {self._logged_state}{f': {why}' if why else ''}",
                "INFO" if is_well else "WARN",
            )

    def _publish(self) -> None:
        """Write the Prometheus targets when the deployment is ready for the first time."""
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

    # ---- units ----------------------------------------------------------------------------

    def enlist(self, member: RunningUnit, before: RunningUnit | None = None) -> None:
        """Add a unit, by default as the last one. The lists are new: loops over the old ones go on."""
        at = self.members.index(before) if before is not None else len(self.members)
        self.members = [*self.members[:at], member, *self.members[at:]]
        self.state.units = [one.state for one in self.members]

    def dismiss(self, member: RunningUnit) -> None:
        """Remove a unit of which nothing is left."""
        self.members = [one for one in self.members if one is not member]
        self.state.units = [one.state for one in self.members]

    def reorder(self, names: Sequence[str]) -> None:
        """Put the units in the order of these names, which are all of them."""
        self.members = sorted(self.members, key=lambda member: names.index(member.unit.name))
        self.state.units = [one.state for one in self.members]

    # ---- processes ------------------------------------------------------------------------

    def reap(self) -> None:
        """Collect children that have exited, and set `ended` of their units. Runs on every SIGCHLD."""
        ended = process_control.reap()
        for member in self.members:
            identity = member.state.identity
            if identity is not None and identity.pid in ended and not is_running(identity):
                member.exit_code = ended[identity.pid]
                member.ended.set()

    def processes(self, member: RunningUnit) -> list[Identity]:
        """The unit's living processes."""
        return members(member.mark, member.state.identity)

    def processes_of_each(self, of: Sequence[RunningUnit]) -> list[list[Identity]]:
        """The living processes of each unit, in the order of `of`; scans the host's processes once."""
        return list(members_of_each({member.mark: member.state.identity for member in of}).values())

    def living(self) -> list[Identity]:
        """The living processes of all units."""
        return [process for processes in self.processes_of_each(self.members) for process in processes]

    def kill(self, member: RunningUnit) -> list[Identity]:
        """SIGKILL all of a unit's processes. Returns those that remain."""
        return cleanup.kill_members(member.mark, member.state.identity, self.files)

    def end_to_restart(self, member: RunningUnit, why: str) -> None:
        """SIGKILL a unit's first process. The unit is then restarted like one that died."""
        member.state.phase = why
        say(f"killing {member.unit.name} to restart it: {why}", "WARN")
        if member.state.identity is not None:
            process_control.send(member.state.identity, signal.SIGKILL)

    async def renew(self, member: RunningUnit, patience_s: float) -> None:
        """Send SIGTERM, and SIGKILL after `patience_s` seconds. The unit restarts at once, without a failure.

        Raises:
            OSError: no file descriptor is left to signal the unit; nothing has changed.
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
            with contextlib.suppress(OSError):  # out of descriptors: the next round tries again
                process_control.send(member.state.identity, signal.SIGKILL)

    async def take_out_of_service(self, member: RunningUnit, why: str) -> None:
        """Mark a unit that lives but does not answer as unresponsive, and withhold its registrations."""
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
            if member.state.state == "unresponsive":  # otherwise they may belong to its next start
                await asyncio.to_thread(self.withhold, own)

    async def put_back_into_service(self, member: RunningUnit) -> None:
        """Undo `take_out_of_service` for a unit that answers again."""
        if member.unit.is_worker:
            await asyncio.to_thread(self.hand_back, member)
        if member.state.state != "unresponsive":
            return  # it has exited meanwhile
        self.follow(member, "answered")
        # Unknown until checked: the frontend may not have seen the registrations come back yet.
        self.listed = self.frontend is None
        member.state.phase = ""
        member.ready.set()
        self.degrade_or_recover()
        self.save()
        say(f"{member.unit.name} answers again")

    def withhold(self, own: Sequence[Identity]) -> None:
        """Take these processes out of discovery: no new requests are sent to them."""
        if self.registrations is not None:
            self.registrations.withhold(own)
        if self.leases is not None:
            self.leases.withhold(own)

    def hand_back(self, member: RunningUnit) -> None:
        """Put a worker's withheld registrations back, unless it is not to get requests."""
        if member.state.service in ("leaving", "drained"):
            return
        own = self.processes(member)
        if self.registrations is not None:
            self.registrations.hand_back(own)
        if self.leases is not None:
            self.leases.hand_back(own)

    def forget_the_dead(self) -> None:
        """Remove the registrations of dead workers from discovery."""
        if self.registrations is not None:
            self.registrations.forget_the_dead(self.living())
        if self.leases is not None:
            self.leases.end_those_of_the_dead()

    # ---- leftovers ------------------------------------------------------------------------

    def files_now(self, of: Sequence[RunningUnit]) -> dict[str, FileIdentity]:
        """The files that these units would leave behind if they were killed now."""
        return files_of(process.pid for processes in self.processes_of_each(of) for process in processes)

    def note_files(self, of: Sequence[RunningUnit]) -> bool:
        """Record the files that these units would leave behind, for a `down` without a supervisor.

        It runs in a thread, next to others that add to `files`.

        Returns:
            Whether the recorded files changed.
        """
        self.files |= self.files_now(of)
        known = {path: identity for path, identity in dict(self.files).items() if is_there(path, identity)}
        is_new = known != self.state.recorded_files
        self.state.record_files(known)
        return is_new

    def sockets(self) -> dict[str, str]:
        """Make a directory for vLLM's sockets and temporary files, and return the variables that say so.

        A killed vLLM leaves them behind. In the shared temporary directory, it would be unknown to which
        deployment they belong.
        """
        if self.plan.engine != "vllm":
            return {}
        if not self._sockets:
            self._sockets = temporary.make()
            if not self._sockets:
                return {}
            own: Files = {self._sockets: identify_file(self._sockets)}
            self.files |= own
            self.state.record_files(self.state.recorded_files | own)
        return {
            "VLLM_RPC_BASE_PATH": self._sockets,
            "TMPDIR": self._sockets,
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR") or temporary.compiled(),
        }

    # ---- etcd -----------------------------------------------------------------------------

    @property
    def namespace(self) -> str:
        """Dynamo's namespace, which all units share."""
        return self._first.env["DYN_NAMESPACE"]

    def etcd(self) -> Etcd:
        """A client of the plan's etcd, with the user name, password and certificates that the units use.

        Raises:
            PreflightError: a certificate cannot be used.
        """
        return Etcd(self.plan.etcd_endpoints, self._first.environ(os.environ))


async def within(seconds: float, event: asyncio.Event) -> bool:
    """Wait up to `seconds` for an event; return whether it is set.

    Python 3.11's `asyncio.wait_for` may lose a cancellation here.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
