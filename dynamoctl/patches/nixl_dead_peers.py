"""The memory of peers that are gone.

A decode worker that has read from a prefill worker over NIXL keeps its memory mapped. vLLM 0.31 lets go of a
peer when another one answers at the same address, and otherwise never. So a prefill worker that died finds
its GPU full when it starts again, and so does a new one after another was scaled away.

With the patch a decode worker looks every second whether its peers still listen. It forgets the address of
one that does not, and has vLLM release that peer, which it does unless a request waits for blocks of it. UCX
unmaps GPU memory at that moment only without its cache of mappings, which made no transfer faster
(docs/reliability.md, "What releases a dead peer's memory").
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from typing import Any

from dynamoctl.patches.base import Patch, wrap

_INTERVAL_S = 1.0
_PATIENCE_S = 1.0


def release_dead_peers(base: Any, pull: Any) -> None:
    """Have every connector look after its peers, in a thread of its own.

    Args:
        base: vLLM's `NixlBaseConnectorWorker`.
        pull: vLLM's `NixlPullConnectorWorker`.

    Raises:
        AttributeError: they have other methods.
    """
    if not base._cleanup_replaced_remote_engines:
        return

    def watched(plain: Any) -> Any:
        def init(self: Any, *words: Any, **named: Any) -> None:
            self.dynamoctl_lock = threading.RLock()
            plain(self, *words, **named)
            thread = threading.Thread(target=_watch, args=(weakref.ref(self), _device()), daemon=True)
            thread.start()

        return init

    # In these vLLM's own thread begins reads, ends them, and releases peers: nobody else may at that moment.
    def alone(plain: Any) -> Any:
        def locked(self: Any, *words: Any, **named: Any) -> Any:
            with self.dynamoctl_lock:
                return plain(self, *words, **named)

        return locked

    wrap(base, "__init__", watched)
    wrap(base, "get_transfer_results", alone)
    wrap(base, "shutdown", alone)
    wrap(pull, "start_load_kv", alone)


def release(worker: Any) -> None:
    """Forget the addresses at which nobody listens any more, and release who was there.

    Args:
        worker: an instance of a class that `release_dead_peers` has changed.
    """
    with worker._handshake_lock:
        peers = dict(worker._engine_by_address)
    for address, engine in peers.items():
        if not _listens(address):
            with worker._handshake_lock:
                if worker._engine_by_address.get(address) == engine:  # else another one has come meanwhile
                    del worker._engine_by_address[address]
    with worker.dynamoctl_lock:
        worker._cleanup_replaced_remote_engines()


def _watch(reference: weakref.ref[Any], device: int | None) -> None:
    if device is not None:
        import torch

        # UCX unmaps in the CUDA context of the thread that it is called in: this makes it the worker's.
        torch.cuda.mem_get_info(device)
    pause = threading.Event()
    while not pause.wait(_INTERVAL_S) and (worker := reference()) is not None:
        release(worker)
        del worker


def _device() -> int | None:
    """The GPU of this thread, as CUDA counts; None on a CPU."""
    import torch

    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def _listens(address: tuple[str, int]) -> bool:
    """Whether a port is open. A host that does not answer says nothing about it, so it counts as open."""
    try:
        socket.create_connection(address, _PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True


def _change(_value: str) -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl import base_worker, pull_worker

    os.environ.setdefault("UCX_CUDA_IPC_CACHE", "n")
    release_dead_peers(base_worker.NixlBaseConnectorWorker, pull_worker.NixlPullConnectorWorker)


PATCH = Patch(
    name="nixl-dead-peers",
    variable="DYNAMOCTL_NIXL_DEAD_PEERS",
    package="vllm",
    versions=("0.31.0",),
    upstream="vllm==0.31.0:vllm/distributed/kv_transfer/kv_connector/v1/nixl/base_worker.py:"
    "NixlBaseConnectorWorker._cleanup_replaced_remote_engines",
    without="the GPU memory of a prefill worker that is gone stays in use until decode is restarted",
    change=_change,
    only_with=("nixl", "1.4.1"),
    at_connector=True,
)
