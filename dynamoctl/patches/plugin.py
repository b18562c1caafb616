"""A vLLM plugin (entry point group `vllm.general_plugins`): what vLLM 0.26 has no setting for.

**NIXL between CPU workers of one host.** As NIXL 1.3 comes, two things make it slow there:

- It opens UCX with peer error handling. Shared memory does not offer that, so UCX reads the KV blocks
  over TCP, and such a read is answered only when the other side makes progress: an idle prefill worker
  does so after 20 to 33 s. With the UCX backend's parameter `ucx_error_handling_mode=none` the blocks
  go through shared memory.
- Its progress thread asks UCX without a pause, one core for each worker. With `pthrDelay` it sleeps
  until UCX has something for it, at most that long. (This is done between hosts as well.)

And vLLM 0.26 binds the thread of each worker that computes to the last core of its NUMA node, for NIXL's
sake: two workers on one host then take turns on that core, where one that waits for its next call spins. One
was seen to run for 0.2 ms in 2 s, and chats to take 10 to 32 s. Here it is bound to no core, as where vLLM
finds no nodes.

**One compile cache for all roles.** vLLM names a compiled model by a hash of its settings and of its
environment, and that takes in the port of NIXL's side channel (`vllm.envs.compile_factors`), which each
worker has for itself: decode and prefill compile the same graphs one after the other, and so does a
later start at other ports. Here the port does not count. It is not in any graph.

**LMCache's server.** Beside a cache server, LMCache 0.5.3 asks on two sides of an
engine whether the server lives. The side that looks prompts up never starts to ask (it takes its empty
table of heartbeats for a started one), so a server that did not answer once, in `mq_timeout`, is never
asked again: the engine serves on without a cache for ever. Here it asks. And on the other side, a server
that does not answer while KV blocks are stored ends the whole engine. Here it counts as one that is away.
And a request whose blocks were promised and did not come is looked up again by a connector that does not load
a second time: it waits for ever. Here it goes on without LMCache. (That it goes on at all is vLLM's
`kv_load_failure_policy`: `planner.connectors`.)

**A call that is not heard.** An engine of several processes hands calls and results on in shared memory. A
process that has waited for a second sleeps until its neighbour tells it of the next one, by a ZMQ socket that
drops what does not fit (its queue holds one). Where such a message is lost, the result lies there and nobody
looks: for 60 s where vLLM waits with a limit, for ever where it waits for calls. Here a sleeper looks by
itself ten times a second.

**Cores that are kept busy with waiting.** The second before such a process sleeps is a loop without a pause.
On a CPU it takes a core from the process that computes, or from another worker; there it is 20 ms.

**A prefill worker that does not end.** Dynamo 1.4 shuts an engine down when an aggregated or a decode worker
ends, and leaves a prefill worker's engine to Python, which asks it to end and waits without a limit: some
seconds on a CPU, and on GPUs the 30 s after which the supervisor kills it. Here it is shut down as the others
are.

**A packed KV cache and LMCache in process.** LMCache 0.5.3 gives back wrong values there; `packed_kv` says
why, and what is done.

**An engine that hangs.** Dynamo's engine monitor asks `AsyncLLM.check_health` every 2 s, which looks at a
flag in the worker's main process. Here each of these calls also pings the engine itself: `engine_heartbeat`.
A process that answers a ping is not kept awake by it.

vLLM loads plugins in every one of its processes. This one does nothing unless a variable is set for the
worker: by the planner (`planner.connectors` says when), or by the supervisor.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamoctl.patches import engine_heartbeat, packed_kv

VARIABLE = "DYNAMOCTL_NIXL_ON_CPU"
# Its values: shared memory and the pause; the pause alone.
ON_ONE_HOST = "1"
BETWEEN_HOSTS = "tcp"
NIXL_UNBOUND = "DYNAMOCTL_NIXL_UNBOUND"
LMCACHE_SERVER = "DYNAMOCTL_LMCACHE_SERVER"
SHARE_COMPILE_CACHE = "DYNAMOCTL_SHARE_COMPILE_CACHE"
PACKED_KV = "DYNAMOCTL_LMCACHE_PACKED_KV"
WAKE_UP = "DYNAMOCTL_WAKE_UP"
SPIN_MS = "DYNAMOCTL_SPIN_MS"
END_ENGINE = "DYNAMOCTL_END_ENGINE"

UCX_PARAMETERS = {"ucx_error_handling_mode": "none"}
PROGRESS_DELAY_US = 1000
WAKE_UP_MS = 100


def register() -> None:
    """vLLM calls this, at times more than once in a process."""
    if os.environ.get(SHARE_COMPILE_CACHE) == "1":
        from vllm import envs

        ignore_port(envs)
    if os.environ.get(WAKE_UP) == "1":
        from vllm.distributed.device_communicators import shm_broadcast

        look_by_itself(shm_broadcast.SpinCondition)
    spin_ms = os.environ.get(SPIN_MS)
    if spin_ms:
        from vllm.distributed.device_communicators import shm_broadcast

        sleep_soon(shm_broadcast.SpinCondition, float(spin_ms) / 1000)
    if os.environ.get(END_ENGINE) == "1":
        from vllm.v1.engine import core_client

        end_with_the_process(core_client.MPClient)
    heartbeat = os.environ.get(engine_heartbeat.VARIABLE)
    if heartbeat:
        from vllm.distributed.device_communicators import shm_broadcast
        from vllm.v1.worker import worker_base

        answer_pings(worker_base.WorkerBase, shm_broadcast.SpinCondition)
    # The worker's first process leads their session; the engine's own processes ping nobody.
    if heartbeat and os.getsid(0) == os.getpid():
        from vllm.v1.engine import async_llm, core_client, output_processor

        ping_engine(
            async_llm.AsyncLLM,
            output_processor.OutputProcessor,
            core_client.AsyncMPClient,
            engine_heartbeat.Pinger(Path(heartbeat)),
        )
    mends = [mend for variable, mend in _LMCACHE_MENDS.items() if os.environ.get(variable) == "1"]
    if mends:
        from vllm.distributed.kv_transfer.kv_connector import factory

        before_connectors(factory.KVConnectorFactory, mends)
    if os.environ.get(NIXL_UNBOUND) == "1":
        from vllm.platforms import cpu

        bind_to_no_core(cpu.CpuPlatform)
    where = os.environ.get(VARIABLE)
    if where in (ON_ONE_HOST, BETWEEN_HOSTS):
        _cure_nixl(shared_memory=where == ON_ONE_HOST)


def _cure_nixl(shared_memory: bool) -> None:
    # vLLM sets this before it imports NIXL, and cannot any more once somebody else has imported it.
    os.environ.setdefault("UCX_RCACHE_MAX_UNRELEASED", "1024")
    from nixl import _api

    if shared_memory:
        add_parameters(_api.nixl_agent)
    add_delay(_api.nixlBind)


def _wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    """Put what `around` makes of a function in its place, once however often it is called."""
    plain = getattr(owner, name, None)
    if plain is None or getattr(plain, "dynamoctl", False):
        return
    wrapped = around(plain)
    wrapped.dynamoctl = True
    setattr(owner, name, wrapped)


def before_connectors(factory: Any, mends: list[Callable[[], None]]) -> None:
    """Mend LMCache when a connector is made: only then is it imported, and only in the engine."""

    def around(plain: Any) -> Any:
        def mended(*words: Any, **named: Any) -> Any:
            for mend in mends:
                mend()
            return plain(*words, **named)

        return mended

    _wrap(factory, "create_connector", around)


def _mend_server() -> None:
    from lmcache.integration.vllm import lmcache_mp_connector as connector
    from lmcache.integration.vllm import vllm_multi_process_adapter as adapters

    start_heartbeats(adapters)
    survive_timeouts(adapters.LMCacheMPWorkerAdapter)
    look_up_once(connector.LMCacheMPConnector, connector.LMCacheMPRequestState.PREFETCHING)


def _mend_packed_kv() -> None:
    from lmcache.v1.platform import resolve_device_ops, torch_device_type

    ops = resolve_device_ops(torch_device_type)
    # What `lmcache.c_ops` gives for this name, to LMCache as well.
    _wrap(ops, "multi_layer_kv_transfer", lambda plain: packed_kv.around(plain, ops.EngineKVFormat))


_LMCACHE_MENDS = {LMCACHE_SERVER: _mend_server, PACKED_KV: _mend_packed_kv}


def start_heartbeats(adapters: Any) -> None:
    """Make LMCache's scheduler side ask each server whether it lives, from its first lookup on."""
    kind = adapters.LMCacheMPSchedulerAdapter

    def start(self: Any) -> None:
        with self._heartbeat_lock:
            if self._heartbeats:
                return
            for url, client in self.mq_clients.items():
                heartbeat = adapters.HeartbeatThread(
                    mq_client=client,
                    health_event=self._health_events[url],
                    interval=self._heartbeat_interval,
                )
                heartbeat.start()
                self._heartbeats[url] = heartbeat

    kind._ensure_heartbeat_started = start


def survive_timeouts(adapter: Any) -> None:
    """Let a worker go on without a cache server that does not answer, as it does without one that is away."""
    for name in ("submit_store_request", "submit_retrieve_request"):
        _wrap(adapter, name, _surviving)


def look_up_once(connector: Any, fresh: Any) -> None:
    """Say of a request whose blocks were to be loaded, and that is asked about again, that there is nothing.

    Args:
        fresh: the state of a request before it is loaded; until then it may be asked about more than once.
    """

    def around(plain: Any) -> Any:
        def matched(self: Any, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
            tracker = self.request_trackers.get(request.request_id)
            if tracker is None or tracker.state == fresh or request.status.name == "PREEMPTED":
                found: tuple[int | None, bool] = plain(self, request, num_computed_tokens)
                return found
            # As after a preemption: what it knows of the blocks it had is no longer so.
            del self.request_trackers[request.request_id]
            self._get_or_create_request_tracker(request)
            return 0, False

        return matched

    _wrap(connector, "get_num_new_matched_tokens", around)


def _surviving(plain: Any) -> Any:
    def submit(self: Any, *words: Any, **named: Any) -> Any:
        try:
            return plain(self, *words, **named)
        except TimeoutError:
            # Its heartbeat finds the server again, and registers this worker there.
            self._health_event.clear()
            return plain(self, *words, **named)

    return submit


def ignore_port(envs: Any) -> None:
    """Leave the side channel's port out of what names a compiled model; a vLLM that does so is left alone."""

    def around(plain: Any) -> Any:
        def without_port() -> dict[str, object]:
            factors: dict[str, object] = plain()
            factors.pop("VLLM_NIXL_SIDE_CHANNEL_PORT", None)
            return factors

        return without_port

    _wrap(envs, "compile_factors", around)


def look_by_itself(condition: Any) -> None:
    """End each wait for a message after a while; who waits looks into the shared memory, and waits again."""

    def around(plain: Any) -> Any:
        def wait(self: Any, timeout_ms: int | None = None) -> None:
            plain(self, WAKE_UP_MS if timeout_ms is None else min(timeout_ms, WAKE_UP_MS))

        return wait

    _wrap(condition, "wait", around)


def sleep_soon(condition: Any, spin_s: float) -> None:
    """Look for the next message without a pause for so long after the last one, and sleep then.

    vLLM does it for a second: in EngineCore while a step is computed, in a worker process when there is
    nothing to do. Where they compute on the same cores, that takes the cores from who computes.
    """

    def around(plain: Any) -> Any:
        def initialize(self: Any, *words: Any, **named: Any) -> None:
            plain(self, *words, **named)
            self.busy_loop_s = min(self.busy_loop_s, spin_s)

        return initialize

    _wrap(condition, "__init__", around)


def end_with_the_process(client: Any) -> None:
    """Shut down what an engine's client has started, before Python waits for it.

    Python does at its end what was registered last first, and it waits for processes by something registered
    when `multiprocessing` was imported.
    """

    def around(plain: Any) -> Any:
        def made(self: Any, *words: Any, **named: Any) -> None:
            plain(self, *words, **named)
            atexit.register(_shut_down, weakref.ref(self))

        return made

    _wrap(client, "__init__", around)


def _shut_down(client: weakref.ref[Any]) -> None:
    there = client()
    if there is not None:
        there.shutdown(timeout=0)  # nothing the second time


def ping_engine(client: Any, processor: Any, core: Any, pinger: engine_heartbeat.Pinger) -> None:
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
            is_ping = method == "collective_rpc" and words[:1] == (engine_heartbeat.PING,)
            pinger.calls += not is_ping
            try:
                return await plain(self, method, *words, **named)
            finally:
                pinger.calls -= not is_ping

        return call

    _wrap(client, "check_health", pinging)
    _wrap(core, "_call_utility_async", calling)
    _wrap(processor, "abort_requests", counting)


def answer_pings(worker: Any, condition: Any) -> None:
    """Answer a ping, and go back to sleep at once where the process slept before.

    After whatever it reads, a process of an engine looks for the next call in a loop without a pause, for a
    second: half of a core for each process, with a ping every 2 s.

    Args:
        worker: vLLM's `WorkerBase`.
        condition: vLLM's `SpinCondition`, by which a reader waits.
    """
    if hasattr(worker, engine_heartbeat.PING):
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

    _wrap(condition, "record_read", remembering)
    setattr(worker, engine_heartbeat.PING, ping)


def bind_to_no_core(platform: Any) -> None:
    """Name no NUMA nodes: vLLM asks for them only to bind a worker with NIXL to the last core of each."""
    platform.discover_numa_topology = lambda *_: []


def add_parameters(agent: Any) -> None:
    """Make every agent of this class open UCX with our parameters, where its caller gives no others."""

    def around(plain: Any) -> Any:
        def with_parameters(self: Any, backend: str, initParams: dict[str, str] | None = None) -> Any:  # noqa: N803  (NIXL's name)
            ours = UCX_PARAMETERS if backend == "UCX" else {}
            return plain(self, backend, {**ours, **(initParams or {})})

        return with_parameters

    _wrap(agent, "create_backend", around)


def add_delay(bindings: Any) -> None:
    """Make every agent's progress thread pause, where its caller has not chosen how long."""
    plain = bindings.nixlAgent
    if getattr(plain, "dynamoctl", False):
        return

    class Agent(plain):  # type: ignore[valid-type, misc]
        dynamoctl = True

        def __init__(self, name: str, config: Any) -> None:
            config.pthrDelay = config.pthrDelay or PROGRESS_DELAY_US
            super().__init__(name, config)

    bindings.nixlAgent = Agent
