"""A Worker process on a CPU that imports vLLM once more.

Dynamo 1.4 has vLLM spawn its processes (ai-dynamo==1.4.2:dynamo/vllm/main.py), and vLLM's platform for CPUs
sets the same. EngineCore inherits that and spawns its Worker process, which then imports vLLM once more, for
seconds and for hundreds of MB. On a CPU, EngineCore has no CUDA context that a fork would break, and
elsewhere vLLM's default is to fork (vllm==0.26.0:vllm/envs.py:VLLM_WORKER_MULTIPROC_METHOD). With the patch
EngineCore forks. The main process, which has Dynamo's threads, still spawns EngineCore, or has it forked by
the server of `fork_engine`.

vLLM binds a Worker's threads by variables for the new process (vllm==0.31.0:vllm/utils/ompmultiprocessing.py:
OMPProcessManager.configure_omp_envs). OpenMP reads them when it is loaded, and a forked process has it
already. So the forked process applies them by itself, before it has threads: it runs on these cores alone,
with so many threads. If Intel's OpenMP is preloaded, the Worker is spawned.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from dynamoctl.patches.base import Patch, wrap

# The versions of vLLM with which a forked Worker was tried whose threads are bound.
BINDS = ("0.31.0",)
_LLVMLITE = "llvmlite.binding.ffi"
_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
# The cores, as vLLM writes them for GNU's OpenMP where that is preloaded, and else as one place of all.
_CORES = ("GOMP_CPU_AFFINITY", "OMP_PLACES")


def fork(envs: Any, worker: Any) -> None:
    """Have this process fork its Worker processes.

    Args:
        envs: the module `vllm.envs`.
        worker: vLLM's `WorkerProc`.

    Raises:
        AttributeError, KeyError: vLLM does not read how they are started, or has no such class.
    """
    envs.environment_variables[_METHOD]

    def binding(plain: Any) -> Any:
        def worker_main(*words: Any, **named: Any) -> None:
            import torch

            bind(os.environ, torch)
            plain(*words, **named)

        return worker_main

    wrap(worker, "worker_main", binding)
    os.environ[_METHOD] = "fork"


def hide_llvmlite(dispatcher: Any) -> None:
    """Have vLLM not look into a module of llvmlite's when it puts its kernels for CPUs in place.

    vLLM reads the attributes of everything in every imported module (vllm==0.31.0:vllm/triton_utils/
    dispatcher.py:_rebind_kernels), and fails at an object of llvmlite's whose `__dict__` is a function. A
    spawned Worker has not imported that; Dynamo's main process has.

    Args:
        dispatcher: the module; vLLM 0.26 has none.
    """

    def around(plain: Any) -> Any:
        def rebind(overrides: Any) -> None:
            module = sys.modules.pop(_LLVMLITE, None)
            try:
                plain(overrides)
            finally:
                if module is not None:
                    sys.modules[_LLVMLITE] = module

        return rebind

    wrap(dispatcher, "_rebind_kernels", around)


def bind(environ: Mapping[str, str], torch: Any) -> None:
    """Do what OpenMP's variables say, in a process that has loaded OpenMP and has no threads of it yet.

    Args:
        environ: the environment; without vLLM's variables nothing is done.
        torch: the module.
    """
    cores = next((environ[name] for name in _CORES if name in environ), "")
    if cores:
        os.sched_setaffinity(0, {int(core) for core in re.findall(r"\d+", cores)})
        torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))


def _change(_value: str) -> None:
    if "iomp" in os.environ.get("LD_PRELOAD", ""):
        return
    from vllm import envs
    from vllm.v1.executor.multiproc_executor import WorkerProc

    if find_spec("vllm.triton_utils.dispatcher"):
        from vllm.triton_utils import dispatcher

        hide_llvmlite(dispatcher)
    fork(envs, WorkerProc)


PATCH = Patch(
    name="fork-workers",
    variable="DYNAMOCTL_FORK_WORKERS",
    package="vllm",
    versions=("0.31.0", "0.26.0"),
    upstream="vllm==0.26.0:vllm/platforms/cpu.py:CpuPlatform.check_and_update_config",
    without="on a CPU each Worker process imports vLLM once more",
    change=_change,
    process="EngineCore",
)
