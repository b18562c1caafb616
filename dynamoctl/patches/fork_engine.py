"""Processes of an engine that import vLLM once more.

Dynamo has vLLM spawn its processes (ai-dynamo==1.6.1:dynamo/vllm/main.py:setup_vllm_engine), since its own
threads run in the process that starts them. With the patch, they are forked by a server that was forked
before these threads ran (`fork_server`).

On a CPU, EngineCore forks its Worker processes itself (`fork_workers`).

A worker that `processes.worker` has not started (an exported one, say) has no such server, and spawns.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch, wrap


def fork_processes(module: Any) -> None:
    """Have a module of vLLM start processes by this process's fork server, if it has one.

    Raises:
        AttributeError: the module asks otherwise for how to start processes.
    """
    from dynamoctl.patches import fork_server  # imports multiprocessing, which a plan does not need

    def around(plain: Any) -> Any:
        def get_mp_context() -> Any:
            return fork_server.ForkingContext() if fork_server.is_running() else plain()

        return get_mp_context

    wrap(module, "get_mp_context", around)


def _change(_value: str) -> None:
    from vllm.platforms import current_platform
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    fork_processes(utils)
    if not current_platform.is_cpu():
        fork_processes(multiproc_executor)


PATCH = Patch(
    name="fork-engine",
    variable="DYNAMOCTL_FORK_ENGINE",
    package="vllm",
    versions=("0.31.0",),
    upstream="ai-dynamo==1.6.1:dynamo/vllm/main.py:setup_vllm_engine",
    without="EngineCore imports vLLM once more",
    change=_change,
)
