"""A server that forks an engine's processes from one process that has imported the engine.

Dynamo has vLLM spawn EngineCore (ai-dynamo==1.6.1:dynamo/vllm/main.py:setup_vllm_engine), so that each
process of a worker imports vLLM again. Once Dynamo's threads run, the main process cannot be forked safely.
So it forks this server before they run, when all that is needed is imported, and the server forks EngineCore.

It is Python's own fork server (`multiprocessing.forkserver`), but for two things. Python starts it as a new
interpreter; here it is a fork. And Python has a process which was forked by the server start a server of its
own; here all processes of a worker share one.

The server ends when the processes that may use it have ended.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import socket
import sys
import tempfile
import uuid
from multiprocessing import context, forkserver, resource_tracker
from pathlib import Path
from typing import Any

# cuda.h: CUDA_ERROR_NOT_INITIALIZED
_NOT_INITIALIZED = 3
# Where vLLM has its sockets (vllm==0.31.0:vllm/envs.py); the supervisor sets it, and removes the folder.
_FOLDER = "VLLM_RPC_BASE_PATH"
_LIBCUDA = "libcuda.so.1"

_is_running = False


class _Process(context.ForkServerProcess):
    """A process that begins and ends as a spawned one does.

    It gets the environment of the process that starts it, in which Dynamo and vLLM hand settings on, and not
    that of the server. When it ends, its exit handlers run.
    """

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        # Python ends a forked process without them, and with them go its temporary files.
        try:
            return int(super()._bootstrap(parent_sentinel))  # type: ignore[misc]
        finally:
            atexit._run_exitfuncs()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "environ": dict(os.environ)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        environ = state.pop("environ")
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
        # It reads its variable when it is imported, and keeps what it makes then.
        metrics: Any = sys.modules.get("prometheus_client.values")
        if metrics is not None:
            metrics.ValueClass = metrics.get_value_class()
        self.__dict__.update(state)


class ForkingContext(context.ForkServerContext):
    """A context of `multiprocessing` whose processes this process's fork server forks."""

    Process = _Process


def start() -> None:
    """Fork the server. Its children have the modules of the calling process.

    Only a process without other threads may call it, and no process twice.

    Raises:
        OSError: no more processes or descriptors are allowed.
    """
    global _is_running  # noqa: PLW0603  (each process has one server at most)
    folder = os.environ.get(_FOLDER) or tempfile.gettempdir()
    # The folder has a short path, which others cannot list; a name of a former process may be in it still.
    address = os.path.join(folder, f"fork-server-{uuid.uuid4().hex[:16]}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        Path(address).chmod(0o600)
        listener.listen()
        # Each process that may use the server holds the end for writing.
        alive, held = os.pipe()
        server: Any = forkserver._forkserver
        server._forkserver_address = address
        server._forkserver_alive_fd = held
        # Python's looks for a child of its own here, and starts a new server without.
        server.ensure_running = resource_tracker.ensure_running
        _is_running = True
        if os.fork() == 0:
            os.close(held)
            _serve(listener.detach(), alive)
        os.close(alive)


def is_running() -> bool:
    """Whether `start` was called in this process, or in one that it was forked from."""
    return _is_running


def uses_cuda() -> bool:
    """Whether CUDA is initialized in this process: then a forked process could not use it."""
    try:
        # A library that is not loaded yet stays that way.
        driver = ctypes.CDLL(_LIBCUDA, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    count = ctypes.c_int()
    return bool(driver.cuDeviceGetCount(ctypes.byref(count)) != _NOT_INITIALIZED)


def _serve(listener: int, alive: int) -> None:
    """Serve until nobody is left who could ask, and end."""
    code = 1
    try:
        _set_title("fork server")
        forkserver.main(listener, alive, [])
    except SystemExit:
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # Neither the exit handlers of the process that this one is a copy of, nor its buffered output.
        os._exit(code)


def _set_title(title: str) -> None:
    """Name this process for `ps`, where the engine's requirements provide for it."""
    os.environ["SPT_NOENV"] = "1"  # a title must not overwrite the environment, and the unit's mark with it
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(title)
