"""The patch of LMCache beside a server that does not answer for a while."""

from __future__ import annotations

import os
import re
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from dynamoctl.host.processes import MARK, identify
from dynamoctl.patches import (
    base,
    lmcache_instance,
    lmcache_layout,
    lmcache_salt,
    lmcache_server,
    lmcache_store_timeout,
)
from dynamoctl.patches.base import Patch, installed_version

from tests.unit.fresh import last_line_with_vllm


def needs(patch: Patch) -> None:
    """Skip where another version is installed, which was mended or has the fault elsewhere."""
    if installed_version(patch.package) not in patch.versions:
        pytest.skip(f"{patch.name} is for {patch.package} {' and '.join(patch.versions)}")


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
    lmcache_store_timeout.survive_timeouts(kind)
    lmcache_store_timeout.survive_timeouts(kind)
    worker = kind()
    getattr(worker, what)("a")
    assert worker.said == ["a: passed over"]


def test_lmcache_gets_a_digest_of_every_salt_and_nothing_for_none() -> None:
    class Adapter:
        def _create_key(self, tokens: int, request_id: str, cache_salt: str = "") -> tuple[int, str, str]:
            return tokens, request_id, cache_salt

    for _ in range(2):
        lmcache_salt.encode_salts(Adapter)
    key = Adapter()._create_key
    one, again, other = (key(1, request_id="a", cache_salt=salt) for salt in ("x", "x", "y\udcff"))
    assert one == again == (1, "a", lmcache_salt.digest("x"))
    assert re.fullmatch("[0-9a-f]{64}", one[2])
    assert re.fullmatch("[0-9a-f]{64}", other[2])
    assert one != other
    assert key(1, request_id="a") == key(1, request_id="a", cache_salt="") == (1, "a", "")


def configuration(
    dtype: str, cache: str = "auto", quantization: str | None = None, revision: str | None = None
) -> Any:
    model = SimpleNamespace(dtype=f"torch.{dtype}", quantization=quantization, revision=revision)
    return SimpleNamespace(model_config=model, cache_config=SimpleNamespace(cache_dtype=cache))


def test_kv_caches_that_differ_have_different_names() -> None:
    layout = lmcache_layout.layout
    assert layout(configuration("bfloat16")) == layout(configuration("bfloat16", "bfloat16")) == "bfloat16"
    others = [
        configuration("float16"),
        configuration("bfloat16", "fp8_e4m3"),
        configuration("bfloat16", "fp8_e5m2"),
        configuration("bfloat16", quantization="fp8"),
        configuration("bfloat16", revision="main"),
    ]
    names = {layout(one) for one in others}
    assert len(names) == len(others)
    assert "bfloat16" not in names
    # What a key may consist of.
    assert all(re.fullmatch("[a-z0-9-]{7,20}", name) for name in names)


def test_lmcaches_adapters_get_the_name_when_the_connector_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapter:
        def __init__(self, server_url: str, model_name: str, block_size: int) -> None:
            self.model_name = model_name

    class Factory:
        @classmethod
        def create_connector(cls, config: Any, role: str) -> Adapter:
            return Adapter(role, model_name="/models/m", block_size=128)

    adapters: Any = ModuleType("lmcache.integration.vllm.vllm_multi_process_adapter")
    adapters.LMCacheMPSchedulerAdapter = adapters.LMCacheMPWorkerAdapter = Adapter
    package: Any = ModuleType("lmcache.integration.vllm")
    package.vllm_multi_process_adapter = adapters
    for name in ("lmcache", "lmcache.integration"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmcache.integration.vllm", package)
    for _ in range(2):
        lmcache_layout.before_connectors(Factory)
    for _ in range(2):
        made = Factory.create_connector(config=configuration("float16"), role="worker")
        assert made.model_name == "/models/m-float16"


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_lmcache_keys_a_chunk_by_no_data_type_and_gets_the_name_as_a_keyword() -> None:
    """The day its keys have one, the patch is to be dropped."""
    script = """
import dataclasses, inspect
from lmcache.v1.distributed.api import ObjectKey
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from vllm.distributed.kv_transfer.kv_connector.v1 import lmcache_mp_connector as connector
from vllm.config import CacheConfig, ModelConfig

names = [field.name for field in dataclasses.fields(ObjectKey)]
source = inspect.getsource(connector)
sides = [adapters.LMCacheMPSchedulerAdapter, adapters.LMCacheMPWorkerAdapter]
wanted = all("model_name" in inspect.signature(side.__init__).parameters for side in sides)
fields = {field.name for one in (ModelConfig, CacheConfig) for field in dataclasses.fields(one)}
print()
passed = source.count("model_name=vllm_config.model_config.model,")
print(any("type" in name for name in names), wanted, passed,
      {"dtype", "quantization", "revision", "cache_dtype"} <= fields)
"""
    needs(lmcache_layout.PATCH)
    assert last_line_with_vllm(script) == "False True 2 True"


def test_a_number_says_which_process_it_is() -> None:
    assert lmcache_instance._MARK == MARK
    own = identify(os.getpid())
    assert own is not None

    class Adapter:
        def __init__(self, url: str) -> None:
            self.url, self.instance_id = url, 7

    for _ in range(2):
        lmcache_instance.register_as_process(Adapter)
    adapter = Adapter("a")
    assert (adapter.url, adapter.instance_id < 2**63) == ("a", True)
    assert lmcache_instance.process_of(adapter.instance_id) == (own.pid, own.start_ticks)
    assert lmcache_instance.process_of(lmcache_instance.instance_id(2**22 - 1, 2**40)) == (2**22 - 1, 2**40)


def test_an_adapter_with_another_kind_of_number_is_said() -> None:
    class Adapter:
        def __init__(self) -> None:
            self.instance_id = "a"

    lmcache_instance.register_as_process(Adapter)
    with pytest.raises(TypeError, match="not a number: 'a'"):
        Adapter()


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_lmcache_takes_the_number_when_it_registers() -> None:
    script = """
import inspect
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from lmcache.v1.multiprocess import server
from lmcache.v1.multiprocess.modules import engine_driven_transfer, lmcache_driven_transfer
worker = adapters.LMCacheMPWorkerAdapter
init = inspect.getsource(worker.__init__)
own = "self.instance_id: int = "
modules = (
    lmcache_driven_transfer.LMCacheDrivenTransferModule,
    engine_driven_transfer.EngineDrivenTransferModule,
)
print()
print(
    init.count(own), "self.instance_id" in init.partition(own)[2].partition(")\\n")[2],
    inspect.getsource(server.MPCacheServer.__init__).count("self._modules = modules"),
    [hasattr(one, "unregister_kv_cache") for one in modules],
    ['"registered_gpu_ids"' in inspect.getsource(modules[0]),
     '"registered_non_cuda_instance_ids"' in inspect.getsource(modules[1])],
)
"""
    needs(lmcache_instance.PATCH)
    assert last_line_with_vllm(script) == "1 True 1 [True, True] [True, True]"


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_both_sides_of_the_installed_lmcache_make_their_keys_where_the_patch_is() -> None:
    script = """
import inspect
from types import SimpleNamespace
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from dynamoctl.patches import lmcache_salt

keys = []
for side in (adapters.LMCacheMPSchedulerAdapter, adapters.LMCacheMPWorkerAdapter):
    lmcache_salt.encode_salts(side)
    one = object.__new__(side)
    one.__dict__ |= {
        "parallel_strategy": SimpleNamespace(num_kv_readers=1, kv_world_size=1, kv_worker_id=0),
        "model_name": "m",
    }
    keys.append(one._create_key([1], 0, 1, request_id="a", cache_salt="tenant").cache_salt)
source = inspect.getsource(adapters)
print()
# Each key of a request is made there, and the salt is a keyword.
made = source.count("IPCCacheServerKey(") + source.count("IPCCacheEngineKey(")
print(keys == [lmcache_salt.digest("tenant")] * 2, made, "_create_key(\\n" in source)
"""
    needs(lmcache_salt.PATCH)
    assert last_line_with_vllm(script) == "True 2 True"


def test_a_connector_is_made_with_lmcache_patched_and_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[Any, ...]] = []

    def create_connector(*words: Any) -> str:
        made.append(words)
        return "connector"

    class Connector:
        def get_num_new_matched_tokens(self) -> None:
            pass

    factory: Any = SimpleNamespace(create_connector=create_connector)
    adapters: Any = ModuleType("lmcache.integration.vllm.vllm_multi_process_adapter")
    adapters.LMCacheMPWorkerAdapter = worker_side()
    adapters.LMCacheMPSchedulerAdapter = SimpleNamespace(_ensure_heartbeat_started=lambda: None)
    adapters.HeartbeatThread = None
    connector: Any = ModuleType("lmcache.integration.vllm.lmcache_mp_connector")
    connector.LMCacheMPConnector = Connector
    connector.LMCacheMPRequestState = SimpleNamespace(PREFETCHING="fresh")
    package: Any = ModuleType("lmcache.integration.vllm")
    package.vllm_multi_process_adapter = adapters
    package.lmcache_mp_connector = connector
    for name in ("lmcache", "lmcache.integration"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmcache.integration.vllm", package)
    monkeypatch.setitem(sys.modules, adapters.__name__, adapters)
    monkeypatch.setitem(sys.modules, connector.__name__, connector)
    monkeypatch.setattr(base, "_logged", set())
    monkeypatch.setattr(base, "installed_version", lambda _: "0.5.3")
    for _ in range(2):
        base.before_connectors(factory, lmcache_server.PATCH, "1")
    assert capsys.readouterr().err == ""  # not yet
    assert [factory.create_connector("config", "role") for _ in range(2)] == ["connector"] * 2
    assert made == [("config", "role")] * 2
    assert capsys.readouterr().err == "dynamoctl: patch lmcache-server applied (lmcache 0.5.3)\n"
    assert Connector.get_num_new_matched_tokens.dynamoctl == ("",)  # type: ignore[attr-defined]


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_lmcache_never_asks_its_server_without_the_patch_and_does_with_it() -> None:
    """The day the first is no longer so, the patch's part is to be dropped."""
    script = """
import threading
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from dynamoctl.patches import lmcache_server

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
lmcache_server.start_heartbeats(adapters)
print()
print(without, lookups())
"""
    needs(lmcache_server.PATCH)
    assert last_line_with_vllm(script) == "0 1"


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_lmcache_raises_what_the_patch_survives() -> None:
    script = """
import inspect
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from lmcache.v1.mp_observability.errors import LMCacheTimeoutError
from lmcache.v1.multiprocess.transfer_context import shm
from dynamoctl.patches import lmcache_store_timeout
lmcache_store_timeout.survive_timeouts(adapters.LMCacheMPWorkerAdapter)
print()
print(
    "raise LMCacheTimeoutError" in inspect.getsource(shm.EngineDrivenContextShm.prepare_store),
    issubclass(LMCacheTimeoutError, TimeoutError),
    "_health_event" in inspect.getsource(adapters.LMCacheMPWorkerAdapter.__init__),
)
"""
    needs(lmcache_store_timeout.PATCH)
    assert last_line_with_vllm(script) == "True True True"


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_lmcache_looks_up_what_did_not_come_again_and_with_the_patch_does_not() -> None:
    """Its connector loads once for a request: what it promises again never comes, and the request waits."""
    script = """
from types import SimpleNamespace
from lmcache.integration.vllm import lmcache_mp_connector as module
from vllm.v1.request import RequestStatus
from dynamoctl.patches import lmcache_server

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
    lmcache_server.look_up_once(module.LMCacheMPConnector, State.PREFETCHING)
print()
print(without, answers())
"""
    needs(lmcache_server.PATCH)
    hit = "(512, True)"
    assert (
        last_line_with_vllm(script)
        == f"([{hit}, {hit}, {hit}], 3, True) ([{hit}, {hit}, (0, False)], 2, False)"
    )
