"""An engine beside LMCache's server that does not answer for a while.

LMCache 0.5.3 asks on two sides of an engine whether the server lives. The side that looks prompts up never
starts to ask (it takes its empty table of heartbeats for a started one), so a server that did not answer
once, in `mq_timeout`, is never asked again: the engine serves on without a cache for ever. With the patch it
asks.

And a request whose blocks were promised and did not come is looked up again by a connector that does not load
a second time: it waits for ever. With the patch it goes on without LMCache. (That it goes on at all is vLLM's
`kv_load_failure_policy`: `planner.connectors`.)

LMCache 0.5.6 does both itself, with another client: there the patch ends the engine.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch, wrap


def start_heartbeats(adapters: Any) -> None:
    """Make LMCache's scheduler side ask each server whether it lives, from its first lookup on.

    Args:
        adapters: LMCache's module `vllm_multi_process_adapter`.
    """
    heartbeat_thread = adapters.HeartbeatThread

    def around(_plain: Any) -> Any:
        def start(self: Any) -> None:
            with self._heartbeat_lock:
                if self._heartbeats:
                    return
                for url, client in self.mq_clients.items():
                    heartbeat = heartbeat_thread(
                        mq_client=client,
                        health_event=self._health_events[url],
                        interval=self._heartbeat_interval,
                    )
                    heartbeat.start()
                    self._heartbeats[url] = heartbeat

        return start

    wrap(adapters.LMCacheMPSchedulerAdapter, "_ensure_heartbeat_started", around)


def look_up_once(connector: Any, fresh: Any) -> None:
    """Say of a request whose blocks were to be loaded, and that is asked about again, that there is nothing.

    Args:
        connector: LMCache's `LMCacheMPConnector`.
        fresh: the state of a request before it is loaded; until then it may be asked about more than once.
    """

    def around(plain: Any) -> Any:
        def matched(self: Any, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
            tracker = self.request_trackers.get(request.request_id)
            if tracker is None or tracker.state == fresh or request.status.name == "PREEMPTED":
                matches: tuple[int | None, bool] = plain(self, request, num_computed_tokens)
                return matches
            # As after a preemption: what it knows of the blocks it had is no longer so.
            del self.request_trackers[request.request_id]
            self._get_or_create_request_tracker(request)
            return 0, False

        return matched

    wrap(connector, "get_num_new_matched_tokens", around)


def _change(_value: str) -> None:
    from lmcache.integration.vllm import lmcache_mp_connector as connector
    from lmcache.integration.vllm import vllm_multi_process_adapter as adapters

    start_heartbeats(adapters)
    look_up_once(connector.LMCacheMPConnector, connector.LMCacheMPRequestState.PREFETCHING)


PATCH = Patch(
    name="lmcache-server",
    variable="DYNAMOCTL_LMCACHE_SERVER",
    package="lmcache",
    versions=("0.5.3",),
    upstream="lmcache==0.5.3:lmcache/integration/vllm/vllm_multi_process_adapter.py:"
    "LMCacheMPSchedulerAdapter._ensure_heartbeat_started",
    without="a worker that loses LMCache's server stays without",
    change=_change,
    at_connector=True,
)
