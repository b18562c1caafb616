"""Runs one plan: starts the units in order, waits at their gates, watches, restarts, stops.

One asyncio loop, one task a unit. `state.json` is written here and nowhere else while this runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from dynamoctl import cache_probe, etcd, observe, probes, stores
from dynamoctl.errors import (
    DynamoctlError,
    InternalError,
    LeftoverError,
    NotReadyError,
    PreflightError,
)
from dynamoctl.export import prometheus
from dynamoctl.host import models, ports
from dynamoctl.host.facts import memory_gib
from dynamoctl.host.processes import (
    MARK,
    Identity,
    children,
    files_of,
    identify,
    is_running,
    listens,
    members,
    members_of_each,
    traces_of_files,
)
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.planner.plan import DeploymentPlan, Unit
from dynamoctl.state import DeploymentState, Folder, UnitState
from dynamoctl.supervisor import lifecycle, log_files, process, removal
from dynamoctl.supervisor.leases import Leases
from dynamoctl.supervisor.phases import LogWatch, last_lines
from dynamoctl.supervisor.read_ahead import read_ahead
from dynamoctl.supervisor.registrations import Registrations
from dynamoctl.words import duration, iso

# How often a gate asks. Each attempt costs some milliseconds of a CPU that the engine wants.
_GATE_INTERVAL_S = 0.4
_WATCH_INTERVAL_S = 5.0
# How often a unit is asked for a sign of life. Only one that gives none for minutes is hung.
_ANSWERS_INTERVAL_S = 10.0
# How often all processes are looked through for files that nothing has told of.
_FILES_INTERVAL_S = 60.0
# Dynamo removes a registration that nobody has touched for 10 s.
_KEEP_INTERVAL_S = 2.0
# How long the frontend may not list a model whose workers are all registered.
_UNLISTED_S = 20.0
# The most of the free memory that weights may take as page cache: the engines need the rest.
_WEIGHTS_SHARE = 0.5
# The engine publishes its counters a step later.
_COUNTER_TRIES = 15
# How long the prompt is that proves LMCache, in its chunks.
_PROBE_CHUNKS = 1.2
# A worker that is loading does not hear SIGTERM until it has loaded; it serves nobody yet.
_GRACE_LOADING_S = 5.0
# Measured: 16 s for a worker with LMCache on an H100, idle, with its own 5 s of grace.
_GRACE_READY_S = 25.0
# "/tmp" and a little more.
_LONGEST_TEMPORARY = 10
_SHORT_TEMPORARY = "/tmp"  # noqa: S108  (`mkdtemp` makes a folder that is nobody else's)
# Clients of the control socket that may wait to be heard.
_CONTROL_BACKLOG = 100
_WAITING_FOR_ETCD = "waiting for etcd"
_WORKERS = ("agg", "decode", "prefill")


class _Member:
    """A unit at run time."""

    def __init__(self, unit: Unit, state: UnitState, mark: str) -> None:
        self.unit = unit
        self.state = state
        self.mark = mark
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.exit_code: int | None = None
        self.log: LogWatch | None = None
        self.restarts: list[float] = []
        self.renewed = False  # ended by us, to be started again: no failure of its own
        self.stranger = False  # another process has answered at its gate


class Supervisor:
    """One deployment's supervisor. `run` is its whole life."""

    def __init__(self, name: str) -> None:
        self.folder = Folder(name)
        body = self.folder.read_plan()
        if body is None:
            raise DynamoctlError(f"there is no plan in {self.folder.path}")
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
        self.members: list[_Member] = []
        for unit in self.plan.units:
            state = UnitState(unit.name, unit.role, gpus=list(unit.gpus), ports=dict(unit.ports))
            self.state.units.append(state)
            self.members.append(_Member(unit, state, f"{self.start_id}/{unit.name}"))
        self.stop = asyncio.Event()
        self.files: set[str] = set()
        self.sockets = ""  # the folder of vLLM's
        self.unsaved = False  # whether the state could not be written the last time
        self.published = False  # whether Prometheus has been told of it
        self.unpublished = ""  # why not
        self.listed = True  # whether the frontend lists the model, once all of it is up
        self.frontend = next((one for one in self.members if one.unit.role == "frontend"), None)
        # In etcd a registration has a lease, which its own process keeps up.
        self.registrations = Registrations(self.folder.store) if self.plan.discovery == "file" else None
        self.leases: Leases | None = None
        if self.plan.discovery == "etcd":
            self.leases = Leases(self._etcd, self._namespace(), self.plan.address)

    # ---- the whole life -------------------------------------------------------------------

    async def run(self) -> int:
        """Start, watch until told to stop, stop. Returns the exit code of this process."""
        process.become_subreaper()
        process.raise_descriptor_limit()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self.folder.write_state(self.state)  # `up` waits for it: here a full disk is an error
        with contextlib.suppress(OSError):
            self.folder.socket.unlink()
        os.chdir(self.folder.path)  # a socket's path may have no more than 107 bytes
        control = await self._listen()
        keeping = asyncio.ensure_future(self._surely(self._keep_up))
        try:
            failure = await self._until_stopped(self._live())
        finally:
            control.close()
            keeping.cancel()
        return await self._end(failure)

    async def _listen(self) -> asyncio.Server:
        """Answer at the control socket."""
        # asyncio accepts as many at once as may wait. Without descriptors (Python 3.11) it tries each of them
        # again, and ever more: that took a whole core, and filled the disk with its log. So it accepts one at
        # a time, and more may wait.
        control = await asyncio.start_unix_server(self._answer, path=self.folder.socket.name, backlog=1)
        self.folder.socket.chmod(0o600)
        for listener in control.sockets:
            with socket.socket(fileno=os.dup(listener.fileno())) as same:
                same.listen(_CONTROL_BACKLOG)
        return control

    async def _live(self) -> None:
        """Bring up, then watch for ever."""
        try:
            async with asyncio.timeout(self.plan.timeout_s):
                await self._bring_up()
        except TimeoutError:
            raise NotReadyError(*self._too_late()) from None
        self._require_all()
        self.state.state = "ready"
        self.state.ready_at = time.time()
        self._save()
        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(self._keep_alive(member))
            watches = [self._watch, self._watch_stores, self._watch_answers, self._watch_lists]
            for watch in (*watches, self._watch_etcd):
                group.create_task(self._surely(watch))

    async def _until_stopped(self, life: Awaitable[None]) -> DynamoctlError | None:
        """Run until it fails or a stop is asked for; give back the failure."""
        living = asyncio.ensure_future(life)
        stopping = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait((living, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        failure: DynamoctlError | None = None
        if not living.done():
            living.cancel()
        try:
            await living
        except asyncio.CancelledError:
            pass
        except Exception as error:
            failure = _failure(error)
        return None if self.stop.is_set() else failure

    async def _end(self, failure: DynamoctlError | None) -> int:
        if failure is not None:
            self.state.error = failure.as_json()
            _say(f"{failure.message}\n{failure.hint}")
            if self.keep:
                self.state.state = "failed"
                self._save()
                while not await _within(_KEEP_INTERVAL_S, self.stop):
                    if self.unsaved:
                        self._save()
        self.state.state = "stopping"
        self._save()
        left = await self._take_all_down()
        self.state.state = "failed" if failure is not None or left else "stopped"
        if left:
            leftover = LeftoverError("could not remove: " + "; ".join(left), "`dynamoctl down` tries again")
            if self.state.error is None:
                self.state.error = leftover.as_json()
            else:
                self.state.warnings.append(leftover.message)
        self._save()
        return failure.exit_code if failure is not None else LeftoverError.exit_code if left else 0

    # ---- up -------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Start every unit once the gates before it have passed; then prove the deployment."""
        reading = asyncio.ensure_future(self._read_logs())
        enough = threading.Event()
        threading.Thread(target=self._read_weights_ahead, args=(enough,), daemon=True).start()
        try:
            async with asyncio.TaskGroup() as group:
                for member in self.members:
                    group.create_task(self._start_in_turn(member))
            await self._prove()
        finally:
            reading.cancel()
            enough.set()

    def _read_weights_ahead(self, enough: threading.Event) -> None:
        """Unless they would not fit: then they would push each other out."""
        model = models.locate(self.plan.model_path)
        if self.plan.engine != "vllm" or model.folder is None or model.weights_gib is None:
            return
        room = memory_gib()[1] - self.plan.lmcache_cpu_gib
        if model.weights_gib < room * _WEIGHTS_SHARE:
            read_ahead(models.weight_files(Path(model.folder)), enough)

    async def _start_in_turn(self, member: _Member) -> None:
        for other in self.members:
            if other.unit.name in member.unit.after:
                await other.ready.wait()
        self._start(member)
        await self._gate(member)

    def _start(self, member: _Member) -> None:
        unit, state = member.unit, member.state
        self._follow(member, "start")
        member.ended.clear()
        member.exit_code, member.stranger = None, False
        log = self.folder.log(unit.name)
        member.log = LogWatch(log)
        environ = {name: value for name, value in os.environ.items() if name not in unit.unset}
        environ |= {**self._sockets(), **unit.env, MARK: member.mark}
        if self.plan.discovery == "etcd":
            environ = etcd.with_certificates(environ)
        removal.remove_folders(self.folder.work(unit.name))
        try:
            state.identity = process.spawn(unit.argv, environ, self.folder.work(unit.name), log)
        except OSError as error:
            self._follow(member, "died")
            raise NotReadyError(f"{unit.name} cannot be started: {error}") from None
        state.started_at, state.exit, state.error = time.time(), "", ""
        state.phase = "importing"
        self._save()

    def _sockets(self) -> dict[str, str]:
        """A folder of vLLM's sockets: killed, it leaves them behind, and in the folder for temporary files
        nobody could tell whose they are.

        It is in /tmp where the names would be too long in the folder for temporary files: a socket's path may
        have no more than 107 bytes, and LMCache in process has names of 80 in there.
        """
        if self.plan.engine != "vllm":
            return {}
        if not self.sockets:
            parent = tempfile.gettempdir()
            if len(parent) > _LONGEST_TEMPORARY:
                parent = _SHORT_TEMPORARY
            try:
                self.sockets = tempfile.mkdtemp(prefix="dctl-", dir=parent)
            except OSError:
                return {}
            self.files.add(self.sockets)
            self.state.files = sorted({*self.state.files, self.sockets})
        return {"VLLM_RPC_BASE_PATH": self.sockets}

    async def _gate(self, member: _Member) -> None:
        """Wait until the unit's own process says ready. A unit that ends fails it at once."""
        while True:
            if member.ended.is_set():
                raise self._died(member)
            says_ready, _ = await probes.gate_is_open(member.unit.gate)
            if says_ready:
                if self._is_own_answer(member):
                    break
                member.stranger = True
                member.state.phase = "waiting: another process answers at its port"
            if member.log is not None and member.log.port_lost:
                raise self._lost_port(member)
            await _within(_GATE_INTERVAL_S, member.ended)
        self._check_lmcache(member)
        self._follow(member, "gate_passed")
        member.state.phase, member.state.ready_at = "", time.time()
        self._note_files([member])
        member.ready.set()
        self._save()

    def _is_own_answer(self, member: _Member) -> bool:
        """Identity before health: the port that answered belongs to the unit's own processes."""
        port, leader = member.unit.gate.port, member.state.identity
        # The first process mostly is the one; to find the others, all of the host's are looked at.
        return (leader is not None and listens(port, [leader])) or listens(port, self._processes(member))

    async def _prove(self) -> None:
        """Ready means: the frontend lists the model, and a completion has come back.

        A disaggregated one must have moved its KV cache: a prefill worker without NIXL passes every
        health check and serves nobody. Without the frontend, this host's part is ready when its gates passed.
        """
        if self.frontend is None:
            return
        for probe in (self._is_listed, self._answers):
            while True:
                done, why = await probe()
                if done:
                    break
                self._set_phase_of_frontend(why)
                self._require_all()
                await asyncio.sleep(_GATE_INTERVAL_S)
        await self._prove_cache()
        for member in self.members:
            self._check_lmcache(member)
        self._set_phase_of_frontend("")

    def _require_all(self) -> None:
        """Raise NotReadyError where a unit has ended."""
        for member in self.members:
            if member.ended.is_set():
                raise self._died(member)

    async def _prove_cache(self) -> None:
        """Does LMCache give back what it was given? An engine serves on without it, and says nothing.

        Nothing is a warning: it serves, if slower, and some models' KV cache LMCache cannot keep. Something
        else is an error: answers would be wrong.
        """
        if self.plan.lmcache is None or self.plan.elsewhere:
            return  # off, or other hosts' engines have caches of their own, which cannot be emptied from here
        self._set_phase_of_frontend("asking LMCache")
        try:
            probe = await cache_probe.run(self.plan, _PROBE_CHUNKS)
        except NotReadyError as error:
            self.state.warnings.append(f"LMCache was not put to the proof: {error.message}")
            return
        if probe.hit_tokens and probe.same_answer is False:
            raise NotReadyError(cache_probe.WRONG, cache_probe.MEND)
        if not probe.hit_tokens and not probe.prefix_cache_cleared:
            self.state.warnings.append("LMCache was not put to the proof: the engines answered by themselves")
        elif not probe.hit_tokens:
            self.state.warnings.append(
                f"LMCache gave none of {probe.prompt_tokens} tokens back: this serves without a cache"
                f" (ask again with: dynamoctl cache check -n {self.state.name})"
            )

    async def _is_listed(self) -> tuple[bool, str]:
        listed, why = await probes.lists_model(self.plan.endpoint, self.plan.model)
        if not listed and self.plan.elsewhere:
            why = f"waiting for {' and '.join(self.plan.elsewhere)} on another host ({why})"
        return listed, why

    async def _answers(self) -> tuple[bool, str]:
        """One completion, with a KV transfer where the plan has one: (yes, why not)."""
        before = await observe.transfers(self.plan)
        done, why = await probes.complete(self.plan.endpoint, self.plan.model)
        decodes_here = any(unit.role == "decode" for unit in self.plan.workers)
        if not done or not self.plan.moves_kv_cache or not decodes_here:
            return done, why
        for _ in range(_COUNTER_TRIES):
            if await observe.transfers(self.plan) > before:
                return True, ""
            await asyncio.sleep(_GATE_INTERVAL_S)
        return False, "a completion came back, but no KV cache went from prefill to decode"

    def _set_phase_of_frontend(self, why: str) -> None:
        if self.frontend is not None and self.frontend.state.phase != why:
            self.frontend.state.phase = why
            self._save()

    def _check_lmcache(self, member: _Member) -> None:
        """It goes on without a cache, or without its kernels, and says so in its log alone."""
        if member.log is None or self.plan.lmcache is None:
            return
        member.log.read()
        if member.log.degraded:
            raise NotReadyError(
                f"{member.unit.name}: LMCache could not start and would serve without a cache",
                f"its log says: {member.log.degraded}\n"
                f"log: {self.folder.log(member.unit.name)}\nto serve without a cache: --no-lmcache",
            )
        warning = (
            f"{member.unit.name}: LMCache works without its compiled kernels, and is slow:"
            " the lmcache that is installed was built for another torch (dynamoctl's extras fit together)"
        )
        if member.log.no_kernels and warning not in self.state.warnings:
            self.state.warnings.append(warning)

    async def _read_logs(self) -> None:
        """Keep the phases of starting units up to date."""
        while True:
            await asyncio.sleep(_GATE_INTERVAL_S)
            changed = False
            for member in self.members:
                if member.state.state != "starting" or member.log is None or member.stranger:
                    continue
                member.log.read()
                if member.state.phase != member.log.phase:
                    member.state.phase = member.log.phase
                    changed = True
            if changed:
                self._save()

    def _died(self, member: _Member) -> NotReadyError:
        """Record a death and say it: which unit, how, its last lines, its log."""
        name = member.unit.name
        member.state.exit = process.how_it_ended(member.exit_code or 0)
        lines = last_lines(self.folder.log(name))
        member.state.error = "\n".join(lines)
        self._follow(member, "died")
        self._save()
        after = duration(time.time() - member.state.started_at)
        return NotReadyError(
            f"{name} ended after {after} ({member.state.exit}) while {member.state.phase or 'running'}",
            "\n".join(["its last lines:", *(f"  {line}" for line in lines), f"log: {self.folder.log(name)}"]),
        )

    def _lost_port(self, member: _Member) -> NotReadyError:
        """Somebody took the unit's port between the plan and its start: it can never say ready."""
        port = member.unit.gate.port
        self._follow(member, "died")
        return NotReadyError(
            f"{member.unit.name} could not listen on port {port}: taken by {ports.holder(port)}",
            "start again: another port will be chosen",
        )

    def _too_late(self) -> tuple[str, str]:
        waiting = [m for m in self.members if m.state.state in ("pending", "starting")]
        doing = ", ".join(f"{m.unit.name} is {m.state.phase or 'waiting its turn'}" for m in waiting)
        doing = doing or (self.frontend and self.frontend.state.phase) or "no completion came back"
        logs = "\n".join(f"log: {self.folder.log(m.unit.name)}" for m in waiting)
        return (
            f"not ready within {duration(self.plan.timeout_s)}: {doing}",
            f"give it more time with --timeout SECONDS, or see why\n{logs}".rstrip(),
        )

    # ---- watching -------------------------------------------------------------------------

    async def _keep_alive(self, member: _Member) -> None:
        """Restart the unit when it ends, with backoff, until there have been too many."""
        while True:
            await member.ended.wait()
            self._degrade()
            error: NotReadyError | None = self._died(member)
            member.ready.clear()
            tries = 0
            while error is not None:
                self._degrade()
                self._save()
                await self._patiently(self._kill, member)
                await self._patiently(self._forget_the_dead)
                renewed, member.renewed = member.renewed, False
                if await self._until_etcd_answers(member):
                    renewed = True  # without its lease in etcd it ends by itself: no failure of its own
                if not renewed and not lifecycle.may_restart(member.restarts, time.monotonic(), tries):
                    self._give_up(member, error, tries)
                    return
                self._follow(member, "retry")
                wait = 0.0
                if not renewed:
                    wait = lifecycle.backoff_s(len(member.restarts), random.random())  # noqa: S311  (jitter)
                if member.unit.role == "cache":
                    # Away for so long that every worker misses it: else they would not register again.
                    wait += 2 * SERVER_HEARTBEAT_S
                member.state.phase = f"restarting in {duration(wait)}"
                self._save()
                await asyncio.sleep(wait)
                if not renewed:
                    member.restarts.append(time.monotonic())
                tries += 1
                member.state.restarts += 1
                error = await self._restart(member)

    async def _restart(self, member: _Member) -> NotReadyError | None:
        """One more try: back at its gate, or why not."""
        reading = asyncio.ensure_future(self._read_logs())
        try:
            async with asyncio.timeout(self.plan.timeout_s):
                self._start(member)
                # Until it is seen: its gate opens before the frontend hears of it.
                self.listed = self.frontend is None
                await self._gate(member)
        except TimeoutError:
            error = NotReadyError(*self._too_late())
            self._follow(member, "died")
            return error
        except NotReadyError as error:
            if member.state.state in ("starting", "ready"):  # it lives, and cannot be used
                self._follow(member, "died")
            return error
        except OSError as error:  # no descriptors left, say
            self._follow(member, "died")
            return NotReadyError(f"{member.unit.name} cannot be watched: {error}")
        finally:
            reading.cancel()
        self._degrade_or_recover()
        self._save()
        return None

    def _give_up(self, member: _Member, error: NotReadyError, tries: int) -> None:
        self._follow(member, "give_up")
        self.state.state = "failed"
        window = f" within {duration(lifecycle.RESTART_WINDOW_S)}"
        self.state.error = NotReadyError(
            f"{member.unit.name} ended {lifecycle.RESTART_LIMIT + 1} times"
            f"{window if tries < lifecycle.RESTART_LIMIT else ''}; the last time: {error.message}",
            error.hint,
        ).as_json()
        self._save()

    async def _watch(self) -> None:
        """Note new files when somebody has made some, and once more then: they are mapped a moment later."""
        traces: object = None
        again, looked = True, 0.0
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            before, traces = traces, await asyncio.to_thread(traces_of_files)
            is_late = time.monotonic() - looked > _FILES_INTERVAL_S
            if again or is_late or traces != before:
                again, looked = traces != before, time.monotonic()
                if await asyncio.to_thread(self._note_files, self.members):
                    self._save()

    async def _surely(self, watch: Callable[[], Awaitable[None]]) -> None:
        """Go on watching where the host has run out of descriptors or of disk for a while."""
        while True:
            try:
                await watch()
                return
            except OSError as error:
                _say(f"{watch.__name__}: {error}", "WARN")
                await asyncio.sleep(_WATCH_INTERVAL_S)

    async def _patiently(self, do: Callable[..., object], *arguments: object) -> None:
        """Until the host lets us: what has to be done before a unit may start again."""
        while True:
            try:
                await asyncio.to_thread(do, *arguments)
                return
            except OSError as error:
                _say(f"{do.__name__}: {error}", "WARN")
                await asyncio.sleep(_WATCH_INTERVAL_S)

    async def _keep_up(self) -> None:
        """Leases and logs, from the first start on: an engine that imports starves those that are up."""
        while True:
            await asyncio.sleep(_KEEP_INTERVAL_S)
            await asyncio.to_thread(self._keep)
            if self.unsaved:
                self._save()

    def _keep(self) -> None:
        # Without a descriptor the second cannot be done; the first can.
        for name in ("supervisor", *(member.unit.name for member in self.members)):
            log_files.bound(self.folder.log(name))
        if self.registrations is not None and self.registrations.keep(self._living) and self.frontend:
            # It would find them at its next look at the whole store, and route by half of them.
            self._end_to_restart(self.frontend, "its store was deleted")

    async def _watch_answers(self) -> None:
        """End a unit that lives and does not answer; it is then started again like one that has died."""
        silent: dict[str, float] = {}
        while True:
            await asyncio.sleep(_ANSWERS_INTERVAL_S)
            ready = [member for member in self.members if member.state.state == "ready"]
            answers = await asyncio.gather(*(probes.answers(m.unit.gate) for m in ready))
            now = time.monotonic()
            answered = {m.unit.name: did for m, did in zip(ready, answers, strict=True)}
            silent = lifecycle.silent_since(silent, answered, now)
            hung = lifecycle.hung(silent, now)
            for member in ready:
                if member.unit.name in hung:
                    self._end_to_restart(member, f"not answering for {duration(lifecycle.HUNG_S)}")

    async def _watch_lists(self) -> None:
        """A deployment whose frontend does not list the model is not ready, whatever its units say.

        A frontend that does not though every worker is registered is started again: it watches the store's
        folders, and where those were deleted it sees nothing any more.
        """
        since: float | None = None
        while self.frontend is not None:
            await asyncio.sleep(_WATCH_INTERVAL_S if self.listed else _GATE_INTERVAL_S)
            if not await probes.answers(self.frontend.unit.gate):
                since = None  # frozen, or another one on its way: it says nothing
                continue
            listed, why = await self._is_listed()
            if listed != self.listed:
                self.listed = listed
                if self.plan.elsewhere and self.frontend.state.state == "ready":
                    self.frontend.state.phase = why
                self._degrade_or_recover()
                self._save()
            if listed or not await self._all_are_registered():
                since = None
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since > _UNLISTED_S:
                since = None
                self._end_to_restart(self.frontend, f"not listing {self.plan.model}")

    async def _all_are_registered(self) -> bool:
        """Whether all units are ready, and every worker is in the store; never said of an etcd."""
        registrations = self.registrations
        if registrations is None or any(member.state.state != "ready" for member in self.members):
            return False
        workers = [member for member in self.members if member.unit.role in _WORKERS]
        owners = await asyncio.to_thread(self._processes_of_each, workers)
        return all([await asyncio.to_thread(registrations.has_any, own) for own in owners])

    def _end_to_restart(self, member: _Member, why: str) -> None:
        member.state.phase = why
        if member.state.identity is not None:
            process.send(member.state.identity, signal.SIGKILL)

    async def _watch_stores(self) -> None:
        """LMCache goes on without a store that has died, and says nothing: so we ask the store."""
        remote = [stores.parse(tier.place) for tier in self.plan.lmcache_tiers if tier.kind == "remote"]
        while remote:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            lost = []
            for store in remote:
                answers, why = await asyncio.to_thread(probes.store_answers, store)
                if not answers:
                    lost.append(
                        f"LMCache's store {store.shown} cannot be used: {why}; requests go on without"
                    )
            if lost != self.state.lost_stores:
                if set(self.state.lost_stores) - set(lost):
                    await self._renew_cache_server()
                self.state.lost_stores = lost
                self._degrade_or_recover()
                self._save()

    async def _watch_etcd(self) -> None:
        """Without etcd nobody new is found, and who loses his lease there ends."""
        while self.leases is not None:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            if await self._look_at_etcd():
                await asyncio.to_thread(self.leases.learn, self._living)

    async def _look_at_etcd(self) -> bool:
        """Whether it answers; what `status` says of it."""
        answers, why = await asyncio.to_thread(self._ask_etcd)
        lost = "" if answers else f"etcd at {', '.join(self.plan.etcd_endpoints)} cannot be used: {why}"
        if lost != self.state.lost_etcd:
            self.state.lost_etcd = lost
            self._degrade_or_recover()
            self._save()
        return answers

    def _ask_etcd(self) -> tuple[bool, str]:
        try:
            return self._etcd().answers()
        except DynamoctlError as error:
            return False, error.message

    async def _until_etcd_answers(self, member: _Member) -> bool:
        """Whether it had to be waited for: a unit that starts without it would wait two minutes, and end."""
        waited = False
        while self.plan.discovery == "etcd" and not await self._look_at_etcd():
            waited = True
            if member.state.phase != _WAITING_FOR_ETCD:
                member.state.phase = _WAITING_FOR_ETCD
                self._save()
            await asyncio.sleep(_WATCH_INTERVAL_S)
        return waited

    async def _renew_cache_server(self) -> None:
        """LMCache's server does not connect again to a store that was away (0.5.3), and does not say so.

        A new one does. The workers find it by themselves; what was in CPU memory is lost.
        """
        for member in self.members:
            if member.unit.role != "cache":
                continue
            await self._until_back(member)  # one that is starting may have started without the store
            if member.state.state == "ready" and member.state.identity:
                member.renewed = True
                member.ready.clear()
                process.send(member.state.identity, signal.SIGTERM)
                if not await _within(_GRACE_READY_S, member.ended):
                    process.send(member.state.identity, signal.SIGKILL)
                await self._until_back(member)
                # Until then the workers have not seen it, and keep nothing.
                await asyncio.sleep(3 * SERVER_HEARTBEAT_S)

    async def _until_back(self, member: _Member) -> None:
        """Until it is ready, or has been given up."""
        while not await _within(_WATCH_INTERVAL_S, member.ready):
            if member.state.state == "failed" and self.state.state == "failed":
                return

    def _degrade(self) -> None:
        """What has failed stays so, whatever ends besides."""
        if self.state.state != "failed":
            self.state.state = "degraded"

    def _degrade_or_recover(self) -> None:
        """Degraded is what is up, but not whole."""
        if self.state.state in ("ready", "degraded"):
            units = all(member.state.state == "ready" for member in self.members)
            whole = units and self.listed and not (self.state.lost_stores or self.state.lost_etcd)
            self.state.state = "ready" if whole else "degraded"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question on the control socket: a fresh snapshot."""
        with contextlib.suppress(ConnectionError):
            await reader.readline()
            seen, memory, remote = await asyncio.gather(
                observe.snapshot(self.plan),
                asyncio.to_thread(self._memory),
                asyncio.to_thread(self._remote),
            )
            seen.memory, seen.remote = memory, remote
            writer.write(json.dumps(asdict(seen)).encode() + b"\n")
            await writer.drain()
        writer.close()

    # ---- down -----------------------------------------------------------------------------

    async def _take_all_down(self) -> list[str]:
        """Again and again where there are no descriptors: nothing can be looked at without one. `down` waits
        for three minutes, and then does it itself."""
        while True:
            try:
                return await self._take_down()
            except OSError as error:
                _say(f"cannot take it down: {error}", "WARN")
                await asyncio.sleep(_WATCH_INTERVAL_S)

    async def _take_down(self) -> list[str]:
        """Stop every unit in reverse order; give back what is left."""
        left: list[str] = []
        self.folder.remove_targets()  # first: what goes now is not what an alert is for
        for roles in removal.STOP_ORDER:
            going = [m for m in self.members if m.unit.role in roles]
            for names in await asyncio.gather(*(self._stop_unit(m) for m in going)):
                left += names
        self._reap()
        stray = await asyncio.to_thread(self._kill_strays)
        left += removal.describe(stray)
        self.state.files = removal.remove_files(self.files)
        left += self.state.files
        # Last: a live worker logs errors when its store goes.
        left += removal.remove_folders(self.folder.store, self.folder.path / "run")
        with contextlib.suppress(OSError):
            self.folder.socket.unlink()
        return left

    async def _stop_unit(self, member: _Member) -> list[str]:
        if member.state.state == "stopped":  # before something else failed, and all is tried again
            return []
        was_ready = member.state.state == "ready"
        self._follow(member, "stop")
        leader = member.state.identity
        if leader is None:
            return []
        self._save()
        grace = self.plan.drain_s + _GRACE_READY_S if was_ready else _GRACE_LOADING_S
        self.files |= await asyncio.to_thread(self._files_now, [member])
        if process.send(leader, signal.SIGTERM):
            await _within(grace, member.ended)
        stay = await asyncio.to_thread(self._kill, member)
        if stay:
            return removal.describe(stay)
        self._follow(member, "ended")
        member.state.phase = ""
        self._save()
        return []

    def _kill(self, member: _Member) -> list[Identity]:
        return removal.kill_members(member.mark, member.state.identity, self.files)

    def _forget_the_dead(self) -> None:
        """Take the registrations of dead workers out of discovery."""
        if self.registrations is not None:
            self.registrations.forget_the_dead(self._living())
        if self.leases is not None:
            self.leases.end_those_of_the_dead()

    def _living(self) -> list[Identity]:
        return [one for member in self._processes_of_each(self.members) for one in member]

    def _kill_strays(self) -> list[Identity]:
        """Whatever was handed to us as a subreaper and carries no mark any more."""
        for _ in range(100):
            strays = [one for pid in children(os.getpid()) if (one := identify(pid)) is not None]
            if not strays:
                break
            self.files |= files_of(one.pid for one in strays)
            for one in strays:
                with contextlib.suppress(PermissionError):
                    process.send(one, signal.SIGKILL)
            time.sleep(0.05)
            process.reap()
        return [*strays, *members(f"{self.start_id}/")]

    # ---- small things ---------------------------------------------------------------------

    def _reap(self) -> None:
        ended = process.reap()
        for member in self.members:
            identity = member.state.identity
            if identity is not None and identity.pid in ended and not is_running(identity):
                member.exit_code = ended[identity.pid]
                member.ended.set()

    def _processes(self, member: _Member) -> list[Identity]:
        return members(member.mark, member.state.identity)

    def _processes_of_each(self, of: Sequence[_Member]) -> list[list[Identity]]:
        return list(members_of_each({member.mark: member.state.identity for member in of}).values())

    def _memory(self) -> observe.Memory:
        there = zip(self.members, self._processes_of_each(self.members), strict=True)
        return observe.memory({m.unit.name: ([one.pid for one in own], m.unit.gpus) for m, own in there})

    def _remote(self) -> list[dict[str, str]] | None:
        """The deployment's workers on other hosts, as etcd knows them; None where it does not say."""
        if self.plan.discovery == "file":
            return []
        try:
            known = self._etcd().instances(self._namespace())
        except DynamoctlError as error:
            _say(error.message, "WARN")
            return None
        if known is None:
            return None
        # Besides the one that takes requests, a worker has endpoints for its own kind.
        serving = (one for one in known if one.endpoint == "generate")
        return [asdict(one) for one in serving if one.address.rpartition(":")[0] != self.plan.address]

    def _namespace(self) -> str:
        return self.plan.units[0].env["DYN_NAMESPACE"]

    def _etcd(self) -> etcd.Etcd:
        return etcd.Etcd(self.plan.etcd_endpoints, self._environ())

    def _environ(self) -> dict[str, str]:
        """What every unit sees of etcd's name, password and certificates."""
        return {**os.environ, **self.plan.units[0].env}

    def _files_now(self, of: Sequence[_Member]) -> set[str]:
        return files_of(one.pid for own in self._processes_of_each(of) for one in own)

    def _note_files(self, of: Sequence[_Member]) -> bool:
        """What would be left of these, for a `down` without us. Returns whether there is anything new.

        (It runs in a thread, beside those that add to the set.)
        """
        self.files |= self._files_now(of)
        known = sorted(path for path in set(self.files) if Path(path).exists())
        is_new = known != self.state.files
        self.state.files = known
        return is_new

    def _follow(self, member: _Member, event: lifecycle.Event) -> None:
        state = member.state
        state.state = lifecycle.follow(state.state, event)

    def _save(self) -> None:
        """On a full disk the deployment goes on, and what `status` reads is old until there is room."""
        self._publish()
        try:
            self.folder.write_state(self.state)
        except PreflightError as error:
            if not self.unsaved:
                _say(error.message, "WARN")
            self.unsaved = True
        else:
            self.unsaved = False

    def _publish(self) -> None:
        """Tell Prometheus what to scrape, from the first time that it is ready until it is taken down."""
        if self.published or self.state.state not in ("ready", "degraded"):
            return
        try:
            self.folder.write_targets(prometheus.targets(self.plan))
            self.published = True
        except OSError as error:
            why = f"cannot write {self.folder.targets_file}: {error.strerror}"
            if why != self.unpublished:
                _say(why)
            self.unpublished = why


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it happens in time. (`wait_for` of Python 3.11 may lose a cancellation here.)"""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _say(text: str, level: str = "ERROR") -> None:
    """To the supervisor's own log, in the form of Dynamo's lines, unless the disk is full."""
    with contextlib.suppress(OSError):
        print(f"{iso(time.time())} {level:>5} {text}", file=sys.stderr, flush=True)


def _failure(error: Exception) -> DynamoctlError:
    """What of an error the user is told. One that nobody foresaw ends the deployment, and not just us:
    a worker without a supervisor is what must not be."""
    own = _own_errors(error)
    if own:
        return own[0]
    lines = "".join(traceback.format_exception(error))
    _say(lines)
    return InternalError(f"the supervisor failed: {error!r}", "please report this, with its log")


def _own_errors(error: BaseException) -> list[DynamoctlError]:
    if isinstance(error, BaseExceptionGroup):
        return [own for each in error.exceptions for own in _own_errors(each)]
    return [error] if isinstance(error, DynamoctlError) else []
