"""A Worker process on a CPU that imports vLLM once more.

Dynamo 1.4 has vLLM spawn its processes (ai-dynamo==1.4.2:dynamo/vllm/main.py), and vLLM's platform for CPUs
sets the same. EngineCore inherits that and spawns its Worker process, which then imports vLLM once more, for
seconds and for hundreds of MB. On a CPU, EngineCore has no CUDA context that a fork would break, and
elsewhere vLLM's default is to fork (vllm==0.26.0:vllm/envs.py:VLLM_WORKER_MULTIPROC_METHOD). With the patch
EngineCore forks. The main process, which has Dynamo's threads, still spawns EngineCore.

It is only for workers whose threads are bound to no cores. vLLM binds them by variables for the new process
(vllm==0.26.0:vllm/utils/ompmultiprocessing.py:OMPProcessManager.configure_omp_envs), and OpenMP reads these
when it is loaded: a forked process has it already, and would ignore them.
"""

from __future__ import annotations

import os
from typing import Any

from dynamoctl.patches.base import Patch

_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


def fork(envs: Any) -> None:
    """Have this process fork its Worker processes.

    Args:
        envs: the module `vllm.envs`.

    Raises:
        AttributeError, KeyError: it does not read how they are started.
    """
    envs.environment_variables[_METHOD]
    os.environ[_METHOD] = "fork"


def _change(_value: str) -> None:
    from vllm import envs

    fork(envs)


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
