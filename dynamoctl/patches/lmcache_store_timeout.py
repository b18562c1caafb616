"""LMCache's server that does not answer while KV blocks are stored or loaded.

The engine's worker waits for its answer in the middle of a step, and without one in `mq_timeout` the error
ends the whole engine. With the patch such a server counts as one that is away: the engine serves on
without a cache until its heartbeat finds the server again.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch, wrap


def survive_timeouts(adapter: Any) -> None:
    """Let a worker go on without a cache server that does not answer, as it does without one that is away.

    Args:
        adapter: LMCache's `LMCacheMPWorkerAdapter`.
    """
    for name in ("submit_store_request", "submit_retrieve_request"):
        wrap(adapter, name, _surviving)


def _surviving(plain: Any) -> Any:
    def submit(self: Any, *words: Any, **named: Any) -> Any:
        try:
            return plain(self, *words, **named)
        except TimeoutError:
            # Its heartbeat finds the server again, and registers this worker there.
            self._health_event.clear()
            return plain(self, *words, **named)

    return submit


def _change(_value: str) -> None:
    from lmcache.integration.vllm import vllm_multi_process_adapter as adapters

    survive_timeouts(adapters.LMCacheMPWorkerAdapter)


PATCH = Patch(
    name="lmcache-store-timeout",
    variable="DYNAMOCTL_LMCACHE_STORE_TIMEOUT",
    package="lmcache",
    versions=("0.5.6", "0.5.3"),
    upstream="lmcache==0.5.6:lmcache/v1/multiprocess/transfer_context/shm.py:prepare_store",
    without="an engine whose cache server does not answer in time ends",
    change=_change,
    at_connector=True,
)
