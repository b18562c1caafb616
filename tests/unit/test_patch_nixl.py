"""The patches of NIXL: how UCX is opened, how often it is asked, where a CPU worker computes, dead peers."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from dynamoctl.patches import nixl_dead_peers, nixl_progress_delay, nixl_shared_memory, plugin

from tests.unit.fresh import last_line, last_line_with_vllm
from tests.unit.installed import of_pyproject

GROUP = "vllm.general_plugins"
RCACHE = "UCX_RCACHE_MAX_UNRELEASED"
SWITCHES = {nixl_shared_memory.PATCH.variable: "1", nixl_progress_delay.PATCH.variable: "1000"}
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
    """An agent of a class that has the patch's parameters."""
    kind = agent_class()
    nixl_shared_memory.add_parameters(kind)
    return kind()


@pytest.fixture
def environ() -> Iterator[MutableMapping[str, str]]:
    """An environment in which the patches are switched on; put back afterwards."""
    with mock.patch.dict(os.environ):
        os.environ.pop(RCACHE, None)
        os.environ.update(SWITCHES)
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
def test_the_progress_thread_pauses_as_long_as_its_caller_says_or_as_it_is_told(
    chosen: int, used: int
) -> None:
    bindings = native_bindings()
    nixl_progress_delay.add_delay(bindings, 1000)
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


@pytest.mark.parametrize("value", [None, ""])
def test_switched_off_it_does_nothing(api: Any, environ: MutableMapping[str, str], value: str | None) -> None:
    for variable in SWITCHES:
        del environ[variable]
        if value is not None:
            environ[variable] = value
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
    seen = json.loads(last_line(script, **SWITCHES))
    assert seen["create_backend"] == "dynamoctl.patches.nixl_shared_memory"
    assert seen["agent"] == "dynamoctl.patches.nixl_progress_delay"
    assert "ucx_error_handling_mode" in seen["parameters"]
    assert seen["delay"] == 1000


# ---- cores ----------------------------------------------------------------------------------


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_vllm_binds_a_worker_with_nixl_and_with_the_patch_does_not() -> None:
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


class Base:
    """Like vLLM's connector of a worker: who is at which address, and how often the others were released."""

    def __init__(self) -> None:
        self._handshake_lock = threading.RLock()
        self._engine_by_address: dict[tuple[str, int], str] = {}
        self.calls: list[str] = []

    def get_transfer_results(self) -> None:
        self.calls.append("finished")

    def shutdown(self) -> None:
        self.calls.append("shut down")

    def _cleanup_replaced_remote_engines(self) -> None:
        self.calls.append("released")


class Pull(Base):
    """Like vLLM's connector that reads."""

    def start_load_kv(self, _metadata: None) -> None:
        self.calls.append("loaded")


def changed_classes() -> Any:
    """Classes as above, changed by the patch."""
    base = type("Base", (Base,), dict(Base.__dict__))
    pull = type("Pull", (base,), {"start_load_kv": Pull.start_load_kv})
    nixl_dead_peers.release_dead_peers(base, pull)
    nixl_dead_peers.release_dead_peers(base, pull)  # the second time changes nothing
    return pull


def unwatched() -> Any:
    """A connector whose thread does nothing."""
    with mock.patch.object(nixl_dead_peers, "_watch"):
        return changed_classes()()


@pytest.fixture
def listener() -> Iterator[tuple[str, int]]:
    """An address at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.fixture
def closed() -> tuple[str, int]:
    """An address at which nobody listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: tuple[str, int] = server.getsockname()
    return address


def test_a_peer_that_does_not_listen_is_forgotten_and_the_rest_is_vllms(
    listener: tuple[str, int], closed: tuple[str, int]
) -> None:
    worker = unwatched()
    worker._engine_by_address = {listener: "lives", closed: "is gone"}
    nixl_dead_peers.release(worker)
    assert worker._engine_by_address == {listener: "lives"}
    assert worker.calls == ["released"]


def test_a_peer_that_comes_while_its_address_is_asked_stays(closed: tuple[str, int]) -> None:
    worker = unwatched()
    worker._engine_by_address = {closed: "first"}

    def comes(*_: object) -> None:
        worker._engine_by_address[closed] = "second"
        raise ConnectionRefusedError

    with mock.patch.object(socket, "create_connection", comes):
        nixl_dead_peers.release(worker)
    assert worker._engine_by_address == {closed: "second"}


@pytest.mark.parametrize("error", [TimeoutError, OSError(113, "No route to host")])
def test_a_host_that_does_not_answer_is_not_a_dead_peer(
    closed: tuple[str, int], error: type[OSError] | OSError
) -> None:
    worker = unwatched()
    worker._engine_by_address = {closed: "far away"}
    with mock.patch.object(socket, "create_connection", side_effect=error):
        nixl_dead_peers.release(worker)
    assert worker._engine_by_address == {closed: "far away"}


def test_it_looks_by_itself_but_not_while_reads_begin_or_end(closed: tuple[str, int]) -> None:
    with mock.patch.object(nixl_dead_peers, "_INTERVAL_S", 0.01):
        worker = changed_classes()()
        worker._engine_by_address = {closed: "is gone"}
        until = time.monotonic() + 60
        while "released" not in worker.calls and time.monotonic() < until:
            time.sleep(0.01)
        assert worker._engine_by_address == {}
        with worker.dynamoctl_lock:
            before = len(worker.calls)
            worker.start_load_kv(None)
            worker.get_transfer_results()
            worker.shutdown()
            time.sleep(0.1)
            assert worker.calls[before:] == ["loaded", "finished", "shut down"]
        threads = threading.active_count()
        del worker
        while threading.active_count() >= threads and time.monotonic() < until:
            gc.collect()
            time.sleep(0.01)
        assert threading.active_count() < threads


@of_pyproject
@pytest.mark.xdist_group("with vllm")
def test_vllm_releases_a_peer_whose_address_is_forgotten_unless_a_request_waits_for_it() -> None:
    """vLLM's own connector, without an engine; and what makes UCX unmap at that moment."""
    script = """
import os, socket, threading
from collections import defaultdict
from types import SimpleNamespace
from unittest import mock
from dynamoctl.patches import nixl_dead_peers
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import base_worker, pull_worker
nixl_dead_peers.PATCH.apply_now("1")
worker = object.__new__(pull_worker.NixlPullConnectorWorker)
worker.dynamoctl_lock, worker._handshake_lock = threading.RLock(), threading.RLock()
worker._handshake_futures, worker.nixl_wrapper, worker.transfer_topo = {}, mock.Mock(), None
names = "kv_caches_base_addr dst_num_blocks dst_region_num_blocks dst_region_group_ids tp_mappings"
for name in [*names.split(), "dst_uses_region_group_mapping", "dst_region_mem_types", "_engine_clock_offset"]:
    setattr(worker, name, {})
worker.dst_xfer_side_handles, worker._engine_last_active = {"dead": {0: 7}, "busy": {0: 8}}, {}
worker._remote_agents = defaultdict(dict, {"dead": {(0, 0): "agent"}, "busy": {(0, 0): "other"}})
with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
    worker._engine_by_address = {one.getsockname(): "dead", two.getsockname(): "busy"}
waits = SimpleNamespace(remote=SimpleNamespace(engine_id="busy"))
worker._recving_metadata = {"request": waits}
nixl_dead_peers.release(worker)
said = worker.nixl_wrapper.mock_calls
print()
print(sorted(worker._remote_agents), said, os.environ["UCX_CUDA_IPC_CACHE"])
worker._remote_agents.clear()
"""
    assert (
        last_line_with_vllm(script)
        == "['busy'] [call.release_dlist_handle(7), call.remove_remote_agent('agent')] n"
    )


@of_pyproject
@pytest.mark.xdist_group("with vllm")
def test_vllms_own_thread_and_the_one_that_looks_after_peers_take_turns() -> None:
    """By whatever name vLLM's connector calls its worker to begin reads, to end them, or to end."""
    script = """
import threading
from dynamoctl.patches import nixl_dead_peers
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import connector, pull_worker
nixl_dead_peers.PATCH.apply_now("1")
worker = object.__new__(pull_worker.NixlPullConnectorWorker)
worker.dynamoctl_lock = threading.RLock()

def waits(call, *words):
    # What it does when its turn has come needs an engine.
    thread = threading.Thread(target=call, args=words, daemon=True)
    with worker.dynamoctl_lock:
        thread.start()
        thread.join(0.2)
        return thread.is_alive()

threading.excepthook = lambda _: None
front = object.__new__(connector.NixlPullConnector)
front.connector_worker = worker
finished = [waits(front.get_finished, set()), waits(front.get_transfer_results, set())]
print()
print(*finished, waits(worker.start_load_kv, None), waits(front.shutdown))
"""
    assert last_line_with_vllm(script) == "True True True True"
