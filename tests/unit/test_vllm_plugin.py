"""The plugin that vLLM loads: how NIXL opens UCX and how often it asks it, and nothing else."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, MutableMapping
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from dynamoctl.patches import plugin

from tests.unit.fresh import last_line, last_line_with_vllm

GROUP = "vllm.general_plugins"
RCACHE = "UCX_RCACHE_MAX_UNRELEASED"
NONE = {"ucx_error_handling_mode": "none"}


def agent_class() -> Any:
    """A class like NIXL's agent that keeps what create_backend gets."""

    class Agent:
        def __init__(self) -> None:
            self.got: list[tuple[str, dict[str, str]]] = []

        def create_backend(self, backend: str, initParams: dict[str, str] = {}) -> None:  # noqa: B006, N803  (as NIXL has it)
            self.got.append((backend, initParams))

    return Agent


def native_bindings() -> Any:
    """A module like NIXL's bindings, whose agent keeps what it is made with."""

    class Native:
        def __init__(self, name: str, config: Any) -> None:
            self.made_with = (name, config.pthrDelay)

    return SimpleNamespace(nixlAgent=Native)


@pytest.fixture
def agent() -> Any:
    """An agent of a class that has the plugin's parameters."""
    kind = agent_class()
    plugin.add_parameters(kind)
    return kind()


@pytest.fixture
def environ() -> Iterator[MutableMapping[str, str]]:
    """An environment in which the plugin is switched on; put back afterwards."""
    with mock.patch.dict(os.environ):
        os.environ.pop(RCACHE, None)
        os.environ[plugin.VARIABLE] = "1"
        yield os.environ


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `nixl._api` of a NIXL that is not the real one."""
    made: Any = ModuleType("nixl._api")
    made.nixl_agent, made.nixlBind = agent_class(), native_bindings()
    package: Any = ModuleType("nixl")
    package._api = made
    monkeypatch.setitem(sys.modules, "nixl", package)
    monkeypatch.setitem(sys.modules, "nixl._api", made)
    return made


# ---- how UCX is opened ----------------------------------------------------------------------


def test_ucx_gets_the_parameter_beside_what_nixl_gives_it(agent: Any) -> None:
    agent.create_backend("UCX", {"num_threads": "4"})
    assert agent.got == [("UCX", {"num_threads": "4", **NONE})]


def test_ucx_gets_the_parameter_where_nothing_else_is_given(agent: Any) -> None:
    agent.create_backend("UCX")
    agent.create_backend(backend="UCX", initParams={})
    assert agent.got == [("UCX", NONE), ("UCX", NONE)]


def test_other_backends_do_not_get_it(agent: Any) -> None:
    agent.create_backend("POSIX")
    agent.create_backend("GDS_MT", {"thread_count": "4"})
    assert agent.got == [("POSIX", {}), ("GDS_MT", {"thread_count": "4"})]


def test_a_caller_who_chooses_a_mode_keeps_it(agent: Any) -> None:
    agent.create_backend("UCX", {"ucx_error_handling_mode": "peer"})
    assert agent.got == [("UCX", {"ucx_error_handling_mode": "peer"})]


def test_one_callers_parameters_are_not_the_next_ones(agent: Any) -> None:
    given = {"num_threads": "4"}
    agent.create_backend("UCX", given)
    agent.create_backend("UCX")
    assert given == {"num_threads": "4"}
    assert agent.got[-1] == ("UCX", NONE)


# ---- how often it is asked ------------------------------------------------------------------


@pytest.mark.parametrize(("chosen", "used"), [(0, 1000), (50, 50)])
def test_the_progress_thread_pauses_as_long_as_its_caller_says_or_a_millisecond(
    chosen: int, used: int
) -> None:
    bindings = native_bindings()
    plugin.add_delay(bindings)
    assert bindings.nixlAgent("name", SimpleNamespace(pthrDelay=chosen)).made_with == ("name", used)


# ---- when vLLM calls it ---------------------------------------------------------------------


def test_switched_on_it_does_both(api: Any, environ: MutableMapping[str, str]) -> None:
    plugin.register()
    agent = api.nixl_agent()
    agent.create_backend("UCX")
    assert agent.got == [("UCX", NONE)]
    assert api.nixlBind.nixlAgent("name", SimpleNamespace(pthrDelay=0)).made_with == ("name", 1000)


def test_called_twice_it_does_so_once(api: Any, environ: MutableMapping[str, str]) -> None:
    before = api.nixl_agent.create_backend, api.nixlBind.nixlAgent
    plugin.register()
    once = api.nixl_agent.create_backend, api.nixlBind.nixlAgent
    plugin.register()
    assert (api.nixl_agent.create_backend, api.nixlBind.nixlAgent) == once
    assert before[0] is not once[0]
    assert before[1] is not once[1]


@pytest.mark.parametrize("value", [None, "", "0"])
def test_switched_off_it_does_nothing(api: Any, environ: MutableMapping[str, str], value: str | None) -> None:
    del environ[plugin.VARIABLE]
    if value is not None:
        environ[plugin.VARIABLE] = value
    before = api.nixl_agent.create_backend, api.nixlBind.nixlAgent
    plugin.register()
    assert (api.nixl_agent.create_backend, api.nixlBind.nixlAgent) == before
    assert RCACHE not in environ


@pytest.mark.parametrize(("users", "there"), [(None, "1024"), ("7", "7")])
def test_it_imports_nixl_before_vllm_does_and_so_makes_vllms_setting_of_ucx_unless_the_user_has(
    api: Any, environ: MutableMapping[str, str], users: str | None, there: str
) -> None:
    if users is not None:
        environ[RCACHE] = users
    plugin.register()
    assert environ[RCACHE] == there


def test_the_installed_distribution_offers_it_to_vllm() -> None:
    offered = metadata.distribution("dynamoctl").entry_points.select(group=GROUP)
    assert [entry.load() for entry in offered] == [plugin.register]


@pytest.mark.packages
def test_the_installed_nixl_is_reached_and_knows_what_it_is_told() -> None:
    """In a process of its own: it changes NIXL."""
    script = f"""
import json
from importlib.metadata import entry_points
for entry in entry_points(group="{GROUP}", name="dynamoctl"):
    entry.load()()
from nixl._api import nixlBind, nixl_agent, nixl_agent_config
agent = nixl_agent("test", nixl_agent_config(backends=[]))
config = nixlBind.nixlAgentConfig()
config.pthrDelay = 0
nixlBind.nixlAgent("other", config)
print()
print(json.dumps({{
    "create_backend": nixl_agent.create_backend.__module__,
    "agent": type(agent.agent).__module__,
    "parameters": agent.get_plugin_params("UCX"),
    "delay": config.pthrDelay,
}}))
"""
    seen = json.loads(last_line(script, **{plugin.VARIABLE: "1"}))
    assert seen["create_backend"] == seen["agent"] == "dynamoctl.patches.plugin"
    assert "ucx_error_handling_mode" in seen["parameters"]
    assert seen["delay"] == 1000


# ---- one compile cache ----------------------------------------------------------------------


def envs_module() -> Any:
    return SimpleNamespace(compile_factors=lambda: {"VLLM_NIXL_SIDE_CHANNEL_PORT": 20001, "VLLM_USE_X": True})


def test_a_port_is_no_part_of_what_names_a_compiled_model() -> None:
    envs = envs_module()
    plugin.ignore_port(envs)
    once = envs.compile_factors
    plugin.ignore_port(envs)
    assert envs.compile_factors is once
    assert once() == {"VLLM_USE_X": True}


def test_a_vllm_without_such_a_name_is_left_alone() -> None:
    envs = SimpleNamespace()
    plugin.ignore_port(envs)
    assert envs == SimpleNamespace()


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_with_it_the_installed_vllm_names_a_model_alike_whatever_the_port() -> None:
    """Without it the names differ: the day they do not, the plugin's part is to be dropped."""
    script = """
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm import envs
from vllm.config.utils import hash_factors
print()
print(hash_factors(envs.compile_factors()))
"""

    def name(port: str, share: str) -> str:
        settings = {"VLLM_NIXL_SIDE_CHANNEL_PORT": port, plugin.SHARE_COMPILE_CACHE: share}
        return last_line_with_vllm(script, **settings)

    assert name("20001", "1") == name("20002", "1")
    assert name("20001", "0") != name("20002", "0")


# ---- the cache server ----------------------------------------------------------------------


def worker_side() -> Any:
    """LMCache's worker side, whose server does not answer."""

    class Worker:
        def __init__(self) -> None:
            self._health_event = threading.Event()
            self._health_event.set()
            self.said: list[str] = []

        def submit_store_request(self, request: str) -> None:
            if not self._health_event.is_set():
                self.said.append(f"{request}: passed over")
                return
            raise TimeoutError

        def submit_retrieve_request(self, request: str) -> None:
            self.submit_store_request(request)

    return Worker


@pytest.mark.parametrize("what", ["submit_store_request", "submit_retrieve_request"])
def test_a_cache_server_that_does_not_answer_is_one_that_is_away(what: str) -> None:
    kind = worker_side()
    plugin.survive_timeouts(kind)
    plugin.survive_timeouts(kind)
    worker = kind()
    getattr(worker, what)("a")
    assert worker.said == ["a: passed over"]


def test_a_connector_is_made_with_lmcache_mended_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def create_connector(*words: Any) -> str:
        made.append(words)
        return "connector"

    factory: Any = SimpleNamespace(create_connector=create_connector)
    mended: list[Any] = []
    adapters: Any = ModuleType("lmcache.integration.vllm.vllm_multi_process_adapter")
    adapters.LMCacheMPWorkerAdapter = worker_side()
    connector: Any = ModuleType("lmcache.integration.vllm.lmcache_mp_connector")
    connector.LMCacheMPConnector = SimpleNamespace()
    connector.LMCacheMPRequestState = SimpleNamespace(PREFETCHING="fresh")
    package: Any = ModuleType("lmcache.integration.vllm")
    package.vllm_multi_process_adapter = adapters
    package.lmcache_mp_connector = connector
    for name in ("lmcache", "lmcache.integration"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmcache.integration.vllm", package)
    monkeypatch.setitem(sys.modules, adapters.__name__, adapters)
    monkeypatch.setitem(sys.modules, connector.__name__, connector)
    monkeypatch.setattr(plugin, "start_heartbeats", mended.append)
    plugin.before_connectors(factory, [plugin._mend_server])
    plugin.before_connectors(factory, [plugin._mend_server])
    assert factory.create_connector("config", "role") == "connector"
    assert made == [("config", "role")]
    assert mended == [adapters]


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_lmcache_never_asks_its_server_without_the_plugin_and_does_with_it() -> None:
    """The day the first is no longer so, the plugin's part is to be dropped."""
    script = """
import threading
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from dynamoctl.patches import plugin

class Heartbeat:
    def __init__(self, **words):
        self.words = words
    def start(self):
        started.append(self.words["interval"])

adapters.HeartbeatThread = Heartbeat
def lookups():
    adapter = object.__new__(adapters.LMCacheMPSchedulerAdapter)
    adapter._heartbeats, adapter._heartbeat_lock = {}, threading.Lock()
    adapter._heartbeat_interval = 5.0
    adapter.mq_clients = {"tcp://a": "client"}
    adapter._health_events = {"tcp://a": threading.Event()}
    adapter._ensure_heartbeat_started()
    adapter._ensure_heartbeat_started()
    return len(started)

started = []
without = lookups()
plugin.start_heartbeats(adapters)
plugin.survive_timeouts(adapters.LMCacheMPWorkerAdapter)
from lmcache.v1.mp_observability.errors import LMCacheTimeoutError
print()
print(without, lookups(), issubclass(LMCacheTimeoutError, TimeoutError))
"""
    assert last_line_with_vllm(script) == "0 1 True"


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_lmcache_looks_up_what_did_not_come_again_and_with_the_plugin_does_not() -> None:
    """Its connector loads once for a request: what it promises again never comes, and the request waits."""
    script = """
from types import SimpleNamespace
from lmcache.integration.vllm import lmcache_mp_connector as module
from vllm.v1.request import RequestStatus
from dynamoctl.patches import plugin

class Adapter:
    lmcache_tokens_per_chunk = 256
    def maybe_submit_lookup_request(self, name, **words):
        asked.append(name)
    def check_lookup_result(self, name):
        return 512

def answers():
    one = object.__new__(module.LMCacheMPConnector)
    one.request_trackers, one.scheduler_adapter, one._hit_alignment_tokens = {}, Adapter(), 16
    one._get_or_create_request_tracker = lambda request: one.request_trackers.setdefault(
        request.request_id,
        SimpleNamespace(
            state=State.PREFETCHING, get_token_ids=list, cache_salt="",
            increase_num_stored_tokens=lambda n: None,
        ),
    )
    request = SimpleNamespace(request_id="a", status=RequestStatus.WAITING)
    said = [one.get_num_new_matched_tokens(request, 0) for _ in range(2)]  # there was no room at first
    loaded = one.request_trackers["a"]
    loaded.state = State.READY
    said.append(one.get_num_new_matched_tokens(request, 0))
    return said, len(asked), one.request_trackers["a"] is loaded

State, asked = module.LMCacheMPRequestState, []
without = answers()
asked.clear()
for _ in range(2):
    plugin.look_up_once(module.LMCacheMPConnector, State.PREFETCHING)
print()
print(without, answers())
"""
    hit = "(512, True)"
    assert (
        last_line_with_vllm(script)
        == f"([{hit}, {hit}, {hit}], 3, True) ([{hit}, {hit}, (0, False)], 2, False)"
    )


# ---- calls between the processes of an engine -----------------------------------------------


@pytest.mark.parametrize(("asked", "waits"), [(None, 100), (60_000, 100), (10, 10)])
def test_who_waits_for_a_call_looks_by_itself_ten_times_a_second(asked: int | None, waits: int) -> None:
    waited: list[int | None] = []

    class Condition:
        def wait(self, timeout_ms: int | None = None) -> None:
            waited.append(timeout_ms)

    plugin.look_by_itself(Condition)
    plugin.look_by_itself(Condition)
    Condition().wait(asked)
    assert waited == [waits]


@pytest.mark.parametrize(("vllms", "spins"), [(1.0, 0.02), (0.0, 0.0)])
def test_who_waits_for_a_call_sleeps_soon(vllms: float, spins: float) -> None:
    class Condition:
        def __init__(self, is_reader: bool) -> None:
            self.busy_loop_s = vllms

    plugin.sleep_soon(Condition, 0.02)
    plugin.sleep_soon(Condition, 0.02)
    assert Condition(is_reader=True).busy_loop_s == spins


def test_an_engine_is_shut_down_before_python_waits_for_it() -> None:
    script = """
import multiprocessing, signal, time
from dynamoctl.patches import plugin

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)

class Client:
    def __init__(self):
        self.engine = multiprocessing.get_context("fork").Process(target=deaf, daemon=True)
        self.engine.start()
    def shutdown(self, timeout):
        print(timeout, self.engine.is_alive(), flush=True)
        self.engine.kill()

plugin.end_with_the_process(Client)
plugin.end_with_the_process(Client)
client, gone = Client(), Client()
gone.engine.kill()
del gone
"""
    assert last_line(script) == "0 True"


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_vllms_engine_is_shut_down_with_the_process() -> None:
    script = """
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.v1.engine.core_client import AsyncMPClient, MPClient
print(MPClient in AsyncMPClient.__mro__ and hasattr(MPClient.__init__, "dynamoctl"))
"""
    assert last_line_with_vllm(script, DYNAMOCTL_END_ENGINE="1") == "True"
    assert last_line_with_vllm(script) == "False"


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_vllm_misses_a_call_without_the_plugin_and_does_not_with_it() -> None:
    """The message that wakes the reader is lost here. The day vLLM looks all the same, drop the mend."""
    script = """
import threading
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

calls = MessageQueue(n_reader=1, n_local_reader=1)
got, waits = [], threading.Event()

def read():
    queue = MessageQueue.create_from_handle(calls.export_handle(), 0)
    queue.wait_until_ready()
    queue._spin_condition.busy_loop_s = -1  # it sleeps at once
    plain = queue._spin_condition.wait
    def wait(*words, **named):
        waits.set()
        plain(*words, **named)
    queue._spin_condition.wait = wait
    got.append(queue.dequeue(indefinite=True))

reader = threading.Thread(target=read, daemon=True)
reader.start()
calls.wait_until_ready()
waits.wait(60)
calls._spin_condition.notify = lambda: None
calls.enqueue("a call")
reader.join(LIMIT)
print()
print(got, flush=True)
import os
os._exit(0)
"""
    assert last_line_with_vllm(script.replace("LIMIT", "5"), DYNAMOCTL_WAKE_UP="0") == "[]"
    assert last_line_with_vllm(script.replace("LIMIT", "60"), DYNAMOCTL_WAKE_UP="1") == "['a call']"


# ---- cores ----------------------------------------------------------------------------------


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_vllm_binds_a_worker_with_nixl_and_with_the_plugin_does_not() -> None:
    """It asks for NUMA nodes to bind the thread to a core of each. The day it does not, drop the patch.

    The script shows vLLM one node with two cores, because not every machine has nodes.
    """
    script = """
import inspect, os
from unittest import mock
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import base_worker
from vllm.platforms.cpu import CpuPlatform
makes = inspect.getsource(base_worker.NixlBaseConnectorWorker.__init__)
asks = "current_platform.discover_numa_topology()" in makes and "os.sched_setaffinity(0, " in makes
system = "/sys/devices/system"
folders = {f"{system}/cpu": [], f"{system}/node": ["node0"], f"{system}/node/node0": ["cpu0", "cpu1"]}
with (
    mock.patch.object(os.path, "exists", folders.__contains__),
    mock.patch.object(os, "listdir", folders.__getitem__),
):
    cores = CpuPlatform.discover_numa_topology(), CpuPlatform().discover_numa_topology()
print()
print(asks, *cores)
"""
    assert last_line_with_vllm(script) == "True [[0, 1]] [[0, 1]]"
    assert last_line_with_vllm(script, DYNAMOCTL_NIXL_UNBOUND="1") == "True [] []"
