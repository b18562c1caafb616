"""What LMCache's server holds for worker processes that have died.

The server maps the KV cache of each worker process and keeps it after the process has died (patch
`lmcache-instance` says for how long). Here, a thread of the server removes what a process registered as soon
as it has ended, as if it had taken its leave.

Source: lmcache==0.5.6:lmcache/v1/multiprocess/modules/lmcache_driven_transfer.py:unregister_kv_cache.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from dynamoctl.host.processes import Identity, boot_id, is_running
from dynamoctl.patches.lmcache_instance import process_of

INTERVAL_S = 1.0
# Where the modules of LMCache's server list who is registered: on GPUs, and on CPUs.
_REGISTERED = ("registered_gpu_ids", "registered_non_cuda_instance_ids")


class CacheClients:
    """The processes that were seen alive while they were registered.

    A number that never was one of a living process says nothing: it is of a client without the patch.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def remove_dead(self, modules: Iterable[Any]) -> list[int]:
        """Unregister the processes that have ended since the last call.

        Args:
            modules: the modules of LMCache's server.

        Returns:
            Their numbers.
        """
        removed, registered = [], set()
        for module in modules:
            if not hasattr(module, "unregister_kv_cache"):
                continue
            status = module.report_status()
            for instance in (one for key in _REGISTERED for one in status.get(key, ())):
                pid, start_ticks = process_of(instance)
                if is_running(Identity(pid, start_ticks, boot_id())):
                    registered.add(instance)
                elif instance in self._seen:
                    module.unregister_kv_cache(instance)
                    removed.append(instance)
        self._seen = registered
        return removed


def watch(app: Any) -> None:
    """Start the thread.

    Args:
        app: the FastAPI application of LMCache's server, which has the engine in its state once it runs.
    """
    threading.Thread(target=_watch, args=(app,), name="dynamoctl-cache-clients", daemon=True).start()


def _watch(app: Any) -> None:
    clients = CacheClients()
    while True:
        time.sleep(INTERVAL_S)
        engine = getattr(app.state, "engine", None)
        if engine is None:
            continue
        try:
            removed = clients.remove_dead(engine._modules)
        except Exception as error:
            # The server serves all the same; its own limits of silence hold.
            print(f"dynamoctl: dead workers stay registered: {error!r}", file=sys.stderr, flush=True)
            return
        for instance in removed:
            print(
                f"dynamoctl: process {process_of(instance)[0]} has ended: removed",
                file=sys.stderr,
                flush=True,
            )
