"""Patches of vLLM, LMCache and NIXL: one module each, applied inside the engine's processes by `plugin`."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoctl.patches import (
    compile_cache_name,
    end_engine,
    engine_heartbeat,
    fork_engine,
    fork_workers,
    lmcache_instance,
    lmcache_layout,
    lmcache_salt,
    lmcache_server,
    lmcache_store_timeout,
    nixl_dead_peers,
    nixl_progress_delay,
    nixl_shared_memory,
    nixl_unbound,
    packed_kv,
    seeded_prefill,
    spin,
    wake_up,
)
from dynamoctl.patches.base import Patch

# In the order in which they are applied: NIXL is imported last, after what vLLM sets for it.
ALL: tuple[Patch, ...] = (
    compile_cache_name.PATCH,
    wake_up.PATCH,
    spin.PATCH,
    fork_engine.PATCH,
    fork_workers.PATCH,
    end_engine.PATCH,
    seeded_prefill.PATCH,
    engine_heartbeat.PATCH,
    lmcache_server.PATCH,
    lmcache_salt.PATCH,
    lmcache_layout.PATCH,
    lmcache_instance.PATCH,
    lmcache_store_timeout.PATCH,
    packed_kv.PATCH,
    nixl_unbound.PATCH,
    nixl_shared_memory.PATCH,
    nixl_progress_delay.PATCH,
    nixl_dead_peers.PATCH,
)


def switched_on(environ: Mapping[str, str]) -> tuple[Patch, ...]:
    """The patches that this environment switches on, in the order in which they are applied."""
    return tuple(patch for patch in ALL if patch.is_on(environ))
