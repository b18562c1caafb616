"""The patches of vLLM's engine: the name of what it compiles, its calls between processes, its end."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from dynamoctl.patches import compile_cache_name, fork_workers, seeded_prefill, spin, wake_up

from tests.unit.fresh import last_line, last_line_with_vllm

# ---- one compile cache ----------------------------------------------------------------------


def envs_module() -> Any:
    return SimpleNamespace(compile_factors=lambda: {"VLLM_NIXL_SIDE_CHANNEL_PORT": 20001, "VLLM_USE_X": True})


def test_a_port_is_no_part_of_what_names_a_compiled_model() -> None:
    envs = envs_module()
    compile_cache_name.ignore_port(envs)
    once = envs.compile_factors
    compile_cache_name.ignore_port(envs)
    assert envs.compile_factors is once
    assert once() == {"VLLM_USE_X": True}


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_with_it_the_installed_vllm_names_a_model_alike_whatever_the_port() -> None:
    """Without it the names differ: the day they do not, the patch is to be dropped."""
    script = """
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm import envs
from vllm.config.utils import hash_factors
print()
print(hash_factors(envs.compile_factors()))
"""

    def name(port: str, share: str) -> str:
        settings = {"VLLM_NIXL_SIDE_CHANNEL_PORT": port, compile_cache_name.PATCH.variable: share}
        return last_line_with_vllm(script, **settings)

    assert name("20001", "1") == name("20002", "1")
    assert name("20001", "0") != name("20002", "0")


# ---- calls between the processes of an engine -----------------------------------------------


@pytest.mark.parametrize(("asked", "waits"), [(None, 100), (60_000, 100), (10, 10)])
def test_who_waits_for_a_call_looks_by_itself_ten_times_a_second(asked: int | None, waits: int) -> None:
    waited: list[int | None] = []

    class Condition:
        def wait(self, timeout_ms: int | None = None) -> None:
            waited.append(timeout_ms)

    wake_up.look_by_itself(Condition)
    wake_up.look_by_itself(Condition)
    Condition().wait(asked)
    assert waited == [waits]


@pytest.mark.parametrize(("vllms", "spins"), [(1.0, 0.02), (0.0, 0.0)])
def test_who_waits_for_a_call_sleeps_soon(vllms: float, spins: float) -> None:
    class Condition:
        def __init__(self, is_reader: bool) -> None:
            self.busy_loop_s = vllms

    spin.sleep_soon(Condition, 0.02)
    spin.sleep_soon(Condition, 0.02)
    assert Condition(is_reader=True).busy_loop_s == spins


# ---- requests with a seed -------------------------------------------------------------------


def test_a_seed_is_not_used_up_by_tokens_that_are_discarded() -> None:
    drawn: list[dict[int, str]] = []

    class Runner:
        def __init__(self) -> None:
            self.input_batch = SimpleNamespace(generators={0: "of a part of a prompt", 2: "of a whole one"})
            self.discard_request_mask = SimpleNamespace(np=[True, True, False, False])

        def sample_tokens(self, grammar: str) -> str:
            drawn.append(dict(self.input_batch.generators))
            if grammar == "broken":
                raise RuntimeError
            return grammar

    class Wrapper:
        def init_device(self) -> None:
            self.worker = SimpleNamespace(model_runner=Runner())

    for _ in range(2):
        seeded_prefill.on_start(Wrapper)
    wrapper = Wrapper()
    wrapper.init_device()
    Wrapper().init_device()
    runner = wrapper.worker.model_runner
    assert runner.sample_tokens("a") == "a"
    with pytest.raises(RuntimeError):
        runner.sample_tokens("broken")
    assert drawn == [{2: "of a whole one"}] * 2
    assert runner.input_batch.generators == {0: "of a part of a prompt", 2: "of a whole one"}


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_vllm_needs_that_still() -> None:
    """The day it does not, the patch is to be dropped."""
    script = """
import inspect, torch
from vllm.v1.worker import gpu_model_runner, worker_base
from dynamoctl.patches import seeded_prefill

runner = gpu_model_runner.GPUModelRunner
source = inspect.getsource(runner._bookkeeping_sync)
seeded_prefill.on_start(worker_base.WorkerWrapperBase)
seeded_prefill.spare_seeds(runner)
print()
try:
    torch.Generator("cpu").get_offset()
except RuntimeError as error:
    print(error, "discard_request_mask.np[" in source, "gen.get_offset()" in source)
"""
    assert last_line_with_vllm(script) == "CPU Generator does not use offset True True"


def test_an_engine_is_shut_down_before_python_waits_for_it() -> None:
    script = """
import multiprocessing, signal, time
from dynamoctl.patches import end_engine

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

end_engine.end_with_the_process(Client)
end_engine.end_with_the_process(Client)
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
def test_the_installed_vllm_misses_a_call_without_the_patch_and_does_not_with_it() -> None:
    """The message that wakes the reader is lost here. The day vLLM looks all the same, drop the patch."""
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
    assert last_line_with_vllm(script.replace("LIMIT", "2"), DYNAMOCTL_WAKE_UP="0") == "[]"
    assert last_line_with_vllm(script.replace("LIMIT", "60"), DYNAMOCTL_WAKE_UP="1") == "['a call']"


# ---- how Worker processes are started ---------------------------------------------------------

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


def test_only_enginecore_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = SimpleNamespace(worker_main=lambda: None)
    with mock.patch.dict(os.environ, {METHOD: "spawn"}):
        fork_workers.fork(SimpleNamespace(environment_variables={METHOD: None}), workers)
        assert os.environ[METHOD] == "fork"
        os.environ[METHOD] = "spawn"
        monkeypatch.setattr(multiprocessing.current_process(), "_name", "VllmWorker-0")
        fork_workers.PATCH.apply()
        assert os.environ[METHOD] == "spawn"


@pytest.mark.parametrize(
    ("environ", "cores", "threads"),
    [
        ({"OMP_PLACES": "{0}", "OMP_PROC_BIND": "true", "OMP_NUM_THREADS": "1"}, {0}, [1]),
        ({"GOMP_CPU_AFFINITY": "0 1", "OMP_NUM_THREADS": "2"}, {0, 1}, [2]),
        ({"OMP_NUM_THREADS": "2"}, None, []),
    ],
    ids=["one place", "GNU's", "not bound"],
)
def test_a_forked_worker_binds_itself_as_openmp_would(
    environ: dict[str, str], cores: set[int] | None, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[set[int]] = []
    seen: list[int] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, to: bound.append(to))
    fork_workers.bind(environ, SimpleNamespace(set_num_threads=seen.append))
    assert bound == ([] if cores is None else [cores])
    assert seen == threads


def test_vllm_does_not_look_into_llvmlite_when_it_places_its_kernels() -> None:
    """It reads `vars(value).get` of everything, and llvmlite has a value whose `vars` is a function."""
    name = "llvmlite.binding.ffi"
    looked: list[bool] = []
    dispatcher = SimpleNamespace(_rebind_kernels=lambda overrides: looked.append(name in sys.modules))
    module = ModuleType(name)
    with mock.patch.dict(sys.modules, {name: module}):
        fork_workers.hide_llvmlite(dispatcher)
        dispatcher._rebind_kernels([])
        assert sys.modules[name] is module
    dispatcher._rebind_kernels([])
    assert looked == [False, False]


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_vllms_enginecore_starts_its_workers_by_a_fork() -> None:
    """It is spawned itself, as without the patch. The day EngineCore forks without it, drop the patch."""
    script = """
import multiprocessing
multiprocessing.current_process().name = "NAME"
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.utils.system_utils import get_mp_context
print()
print(get_mp_context().get_start_method())
"""

    def method(name: str, **environ: str) -> str:
        return last_line_with_vllm(script.replace("NAME", name), **{METHOD: "spawn"}, **environ)

    assert method("EngineCore", DYNAMOCTL_FORK_WORKERS="1") == "fork"
    assert method("EngineCore_DP0", DYNAMOCTL_FORK_WORKERS="1") == "fork"
    assert method("MainProcess", DYNAMOCTL_FORK_WORKERS="1") == "spawn"
    assert method("EngineCore") == "spawn"


@pytest.mark.packages
def test_the_installed_vllm_names_its_processes_and_spawns_on_a_cpu_as_the_patch_says() -> None:
    engine = importlib.util.find_spec("vllm")
    assert engine is not None
    assert engine.submodule_search_locations
    root = Path(engine.submodule_search_locations[0])
    assert 'if is_dp else "EngineCore"' in (root / "v1/engine/utils.py").read_text()
    assert f'os.environ["{METHOD}"] = "spawn"' in (root / "platforms/cpu.py").read_text()
