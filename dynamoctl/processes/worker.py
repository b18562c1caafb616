"""A worker that imports the engine once. Run as `python -m dynamoctl.processes.worker ARGUMENT...`.

It is `python -m dynamo.vllm ARGUMENT...`, with a fork server (`patches.fork_server`) between the imports and
Dynamo's main function: EngineCore and, on GPUs, the Worker processes of several ranks are forked.

As a standby, it waits after the imports for a line on stdin that tells it to become the worker. At the end of
the input it exits.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
from pathlib import Path

from dynamoctl.patches import fork_engine
from dynamoctl.processes.quick_imports import without_building_models, without_collector

# Set to 1, it makes the process a standby.
STANDBY = "DYNAMOCTL_STANDBY"
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
# The file that a standby makes in its working directory when it has imported everything.
IMPORTED = "imported"
# What the main process imports, and what its engine's processes import besides.
_MAIN = ("dynamo.vllm.main", "vllm.v1.engine.core")
_OF_DEVICE = {
    "cpu": ("vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner"),
    "cuda": ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner"),
}
_OF_CONNECTOR = {
    "LMCacheMPConnector": ("lmcache.integration.vllm.lmcache_mp_connector",),
    "NixlConnector": ("vllm.distributed.kv_transfer.kv_connector.v1.nixl", "nixl._api"),
}


def main() -> None:
    """Import, wait if this is a standby, and run Dynamo's worker."""
    preload(sys.argv[1:])
    if os.environ.pop(STANDBY, ""):
        Path(IMPORTED).touch()
        _become_the_worker()
    _fork_server(sys.argv[1:])
    _keep_metrics_here()
    runpy.run_module("dynamo.vllm", run_name="__main__", alter_sys=True)


def _keep_metrics_here() -> None:
    """Have Dynamo write its metrics to the unit's folder, which the supervisor removes.

    It would make a folder for temporary files, and leave it there when it is killed. If the variable is set
    before `prometheus_client` is imported, metrics are registered twice
    (ai-dynamo==1.6.1:dynamo/vllm/main.py:setup_metrics_collection).
    """
    if not os.environ.get(_METRICS):
        folder = Path("metrics").absolute()
        folder.mkdir(exist_ok=True)
        os.environ[_METRICS] = str(folder)


def preload(arguments: list[str]) -> None:
    """Import what a worker with these arguments imports.

    What cannot be imported is left to the worker, which reports it.
    """
    with without_collector(), without_building_models():
        for module in _MAIN:
            _import(module)
        platform = sys.modules.get("vllm.platforms")
        if platform is not None:
            for module in _OF_DEVICE.get(platform.current_platform.device_type, ()):
                _import(module)
        text = " ".join(arguments)
        for connector, modules in _OF_CONNECTOR.items():
            if connector in text:
                for module in modules:
                    _import(module)


def _import(module: str) -> None:
    with contextlib.suppress(Exception):
        importlib.import_module(module)


def _fork_server(arguments: list[str]) -> None:
    """Start the fork server if the plan asks for it, and it can work.

    vLLM binds memory to a NUMA node by another program that it starts in Python's place
    (vllm==0.31.0:vllm/utils/numa_utils.py).
    """
    from dynamoctl.patches import fork_server  # the supervisor imports this module, and not multiprocessing

    binds = any(word.startswith("--numa-bind") for word in arguments)
    if fork_engine.PATCH.is_on(os.environ) and not binds and not fork_server.uses_cuda():
        fork_server.start()


def _become_the_worker() -> None:
    """Wait for the word, and take over the unit's folder and log."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    order = json.loads(line)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(order["cwd"])
    # As `python -m` has it in a new process.
    sys.path[0] = order["cwd"]


if __name__ == "__main__":
    main()
