"""Whether a vLLM engine answers: told in the worker's main process, read by the supervisor.

Dynamo's status server lives in the worker's main process and answers for an engine that does not: a stopped
EngineCore, a hung kernel, a deadlocked collective. So the main process pings its engine, every 2 s, and
records each answer as the modification time of a file. The ping calls vLLM's own `check_health` on every
worker process of the engine (`AsyncLLM.collective_rpc`): EngineCore answers it between two steps, so it does
not queue behind requests, holds no KV blocks and does not look anything up in LMCache. A busy engine answers
within one step, which computes `--max-num-batched-tokens` at most, however long a prompt is.

Dynamo's canary was not taken. It is a request like any other: it queues behind the prompts of a busy engine
and is then reported as a failure, and a prefill worker keeps its KV blocks until their lease runs out.

Files and times, since a file's time can be set on a full disk, and costs the reader one `stat`.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamoctl.patches.base import Patch, wrap

if TYPE_CHECKING:
    import asyncio

# Names the folder of the two files; set by the supervisor, in whose folder of the unit they are.
VARIABLE = "DYNAMOCTL_ENGINE_HEARTBEAT"
# Dynamo's, in seconds: how often its monitor asks, and with it how often the engine is pinged.
INTERVAL_VARIABLE = "DYN_ENGINE_HEALTH_CHECK_INTERVAL"
INTERVAL_S = 2.0
# What the ping calls on every worker process of the engine: `answer_pings` puts it there.
PING = "dynamoctl_ping"
_ANSWERED = "engine-answered"
_ASKED_IDLE = "engine-asked-idle"


@dataclass(frozen=True)
class Heartbeat:
    """What the two files say.

    Attributes:
        answered: when the engine last answered, in nanoseconds of the monotonic clock.
        was_idle: whether the engine had nothing to do when the unanswered ping was sent: it would have
            answered at once. False where it may be in the middle of a step.
    """

    answered: int
    was_idle: bool


def read(folder: Path) -> Heartbeat | None:
    """The last heartbeat of the worker whose folder this is; None where it has told of none (yet), or cannot
    tell: the file system may have become read-only.
    """
    if not os.access(folder, os.W_OK):
        return None
    try:
        answered = (folder / _ANSWERED).stat().st_mtime_ns
    except OSError:
        return None
    asked = 0
    with contextlib.suppress(OSError):
        asked = (folder / _ASKED_IDLE).stat().st_mtime_ns
    return Heartbeat(answered, asked > answered)


@dataclass
class Pinger:
    """Pings one engine, one ping at a time.

    Attributes:
        folder: where the files are written.
        aborted: how often requests were aborted; counted by whoever sees it.
        calls: how many calls of others the engine is at: to sleep, to load an adapter, to write a profile.
    """

    folder: Path
    aborted: int = 0
    calls: int = 0
    _settled_at: int = 0
    _ping: asyncio.Task[None] | None = field(default=None, repr=False)

    def ping(self, engine: Any) -> None:
        """Send the next ping, unless the last one is unanswered. Returns at once.

        Args:
            engine: vLLM's `AsyncLLM`.
        """
        import asyncio  # slow, and the planner does not need it

        if self._ping is None or self._ping.done():
            self._ping = asyncio.ensure_future(self._ask(engine))

    async def _ask(self, engine: Any) -> None:
        aborted = self.aborted
        is_idle = not (self.calls or engine.output_processor.has_unfinished_requests())
        # A request that was aborted may still be in a step, until the engine has answered once.
        if is_idle and self._settled_at == aborted:
            _touch(self.folder / _ASKED_IDLE)
        try:
            await engine.collective_rpc(PING)
        except Exception:
            return
        self._settled_at = aborted
        _touch(self.folder / _ANSWERED)


def _touch(path: Path) -> None:
    """Set its time to the present, by the clock that does not jump. The folder may have been deleted: then
    nobody is told.
    """
    now = time.monotonic_ns()
    with contextlib.suppress(OSError):
        try:
            os.utime(path, ns=(now, now))
        except FileNotFoundError:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(path, ns=(now, now))


def ping_engine(client: Any, processor: Any, core: Any, pinger: Pinger) -> None:
    """Ping the engine whenever its health is asked for, and count what keeps it busy besides requests.

    Args:
        client: vLLM's `AsyncLLM`.
        processor: vLLM's `OutputProcessor`, which knows of every request until it has finished.
        core: vLLM's `AsyncMPClient`, by which the engine is called.
    """

    def pinging(plain: Any) -> Any:
        async def check_health(self: Any) -> None:
            pinger.ping(self)
            await plain(self)

        return check_health

    def counting(plain: Any) -> Any:
        def abort_requests(*words: Any, **named: Any) -> Any:
            pinger.aborted += 1
            return plain(*words, **named)

        return abort_requests

    def calling(plain: Any) -> Any:
        async def call(self: Any, method: str, *words: Any, **named: Any) -> Any:
            is_ping = method == "collective_rpc" and words[:1] == (PING,)
            pinger.calls += not is_ping
            try:
                return await plain(self, method, *words, **named)
            finally:
                pinger.calls -= not is_ping

        return call

    wrap(client, "check_health", pinging)
    wrap(core, "_call_utility_async", calling)
    wrap(processor, "abort_requests", counting)


def answer_pings(worker: Any, condition: Any) -> None:
    """Answer a ping, and go back to sleep at once where the process slept before.

    After whatever it reads, a process of an engine looks for the next call in a loop without a pause, for a
    second: half of a core for each process, with a ping every 2 s.

    Args:
        worker: vLLM's `WorkerBase`.
        condition: vLLM's `SpinCondition`, by which a reader waits.
    """
    if hasattr(worker, PING):
        return
    before: list[tuple[Any, float]] = []

    def remembering(plain: Any) -> Any:
        def record_read(self: Any) -> None:
            before[:] = [(self, self.last_read)]
            plain(self)

        return record_read

    def ping(self: Any) -> None:
        self.check_health()
        for reader, last_read in before:
            reader.last_read = last_read

    wrap(condition, "record_read", remembering)
    setattr(worker, PING, ping)


def _change(folder: str) -> None:
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.v1.worker import worker_base

    answer_pings(worker_base.WorkerBase, shm_broadcast.SpinCondition)
    # The worker's first process leads their session; the engine's own processes ping nobody.
    if os.getsid(0) == os.getpid():
        from vllm.v1.engine import async_llm, core_client, output_processor

        ping_engine(
            async_llm.AsyncLLM,
            output_processor.OutputProcessor,
            core_client.AsyncMPClient,
            Pinger(Path(folder)),
        )


PATCH = Patch(
    name="engine-heartbeat",
    variable=VARIABLE,
    package="vllm",
    versions=("0.31.0", "0.26.0"),
    upstream="ai-dynamo==1.4.2:dynamo/vllm/engine_monitor.py:VllmEngineMonitor",
    without="an engine that hangs looks healthy",
    change=_change,
    values=(),
    is_set_by_supervisor=True,
)
