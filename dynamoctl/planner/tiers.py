"""LMCache's storage tiers below CPU memory: what the engine (in process) or the cache server gets for each.

| tier | in process | cache server |
| --- | --- | --- |
| disk | LMCACHE_LOCAL_DISK and its size; of several folders, each rank takes one | adapter `fs_native` |
| remote | LMCACHE_REMOTE_URL | adapter of the store's kind, if LMCache has one |
| gds | LMCACHE_GDS_PATH and a buffer | `--gds-l1-path`, in the place of CPU memory |
| l2 | nothing | adapters as they are given |

Sources, all of lmcache==0.5.6: `lmcache/v1/config.py` (in process), `lmcache/v1/distributed/l2_adapters` (the
adapters of the server) and `lmcache/v1/distributed/config.py` (`--gds-l1-path`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.errors import SpecError
from dynamoctl.lmcache import remote_stores
from dynamoctl.lmcache.remote_stores import Store
from dynamoctl.planner.connectors import CacheMode, Device
from dynamoctl.planner.plan import Tier
from dynamoctl.planner.secrets import is_secret_name

# Rule `lmcache-gds-buffer`.
GDS_BUFFER_MIB = "2048"


def of(spec: LMCacheSpec, cache: CacheMode | None, device: Device, holders: int) -> tuple[Tier, ...]:
    """The tiers of a plan, below CPU memory.

    The GDS tier of a server takes the place of CPU memory: lmcache==0.5.6:lmcache/v1/distributed/config.py:
    gds_l1_path.

    Raises:
        SpecError: a tier that this mode or this device does not have.
    """
    if cache is None:
        return ()
    found = []
    if spec.gds:
        if device == "cpu":
            raise SpecError(
                "lmcache.gds: GPUDirect Storage is between a GPU and a disk, and this plan has no GPU",
                "take --lmcache-disk on a CPU",
            )
        if cache == "mp" and (spec.disk or spec.remote or spec.l2):
            raise SpecError(
                "lmcache.gds: with the cache server, this tier takes the place of CPU memory,"
                " and no other tier can stand below it",
                "take away disk, remote and l2, or take --lmcache-mode inproc",
            )
        found += [Tier("gds", place, None if ranks else 0.0) for place, ranks in _ranks(spec.gds, holders)]
    if spec.disk:
        size = spec.disk_gb or 0
        found += [Tier("disk", place, size * ranks) for place, ranks in _ranks(spec.disk, holders)]
    for name, places in (("disk", spec.disk), ("gds", spec.gds)) if cache == "mp" else ():
        if places and "," in places:
            raise SpecError(
                f"lmcache.{name}: the cache server takes one folder; with several disk adapters it would keep"
                " a copy of everything in each",
                "name one folder, on disks that the system has joined (RAID 0, LVM), or take --lmcache-mode"
                " inproc on GPUs",
            )
    if spec.remote:
        store = remote_stores.parse(spec.remote)
        if cache == "mp":
            _adapter(store)
        else:
            _check_in_process(store, spec.env)
        found.append(Tier("remote", spec.remote))
    if spec.l2:
        if cache == "inproc":
            raise SpecError(
                "lmcache.l2: only the cache server has such adapters, and here LMCache is in the engine",
                "take --lmcache-mode mp, or lmcache.disk and lmcache.remote",
            )
        found += [Tier("l2", str(table["type"])) for table in spec.l2]
    return tuple(found)


def _ranks(places: str, holders: int) -> list[tuple[str, int]]:
    """The folders of a tier, and how many ranks of the host take each."""
    folders = places.split(",")
    counts = Counter(folders[rank % len(folders)] for rank in range(holders))
    return [(folder, counts[folder]) for folder in dict.fromkeys(folders)]


def own_order(places: str, worker: int, tp: int) -> list[str]:
    """The folders of a tier as one worker gets them, so that all of them are used.

    LMCache gives a rank the folder with the number of its GPU, and each worker counts its own GPUs from 0:
    lmcache==0.5.6:lmcache/v1/storage_backend/path_sharder.py:PathSharder.

    Args:
        worker: which of the caching workers it is.
    """
    folders = places.split(",")
    first = worker * tp % len(folders)
    return [*folders[first:], *folders[:first]]


def disk_urls(places: str, worker: int, tp: int) -> str:
    """The directories of the disk tier, as LMCache takes them in process."""
    return ",".join(f"file://{directory.rstrip('/')}/" for directory in own_order(places, worker, tp))


def _check_in_process(store: Store, env: Mapping[str, str]) -> None:
    """What LMCache in process cannot do with a store, and does not say.

    Raises:
        SpecError: it cannot use the store at all, or not with a setting, or would not log in.
    """
    partial = "LMCACHE_SAVE_UNFULL_CHUNK"
    if store.kind.whole_chunks and env.get(partial, "").lower() in ("true", "1"):
        raise SpecError(
            f"{partial}: LMCache keeps only whole chunks in {store.scheme}://",
            f"remove {partial}, or use redis://",
        )
    if store.kind.why_not_in_process:
        raise SpecError(
            f"lmcache.remote: {store.scheme}:// cannot be used: {store.kind.why_not_in_process}",
            "use another store, such as redis://",
        )
    if store.kind.login and (store.username or store.password):
        raise SpecError(
            f"lmcache.remote: LMCache does not read a user name or password in a {store.scheme}:// URL",
            f"take them out of it, and set {store.kind.login}",
        )


def server_arguments(spec: LMCacheSpec) -> tuple[str, ...]:
    """What is added to the cache server's command line."""
    arguments: list[str] = ["--gds-l1-path", spec.gds] if spec.gds else []
    for adapter in _adapters(spec):
        arguments += ["--l2-adapter", json.dumps(adapter, separators=(",", ":"))]
    return tuple(arguments)


def server_environment(spec: LMCacheSpec) -> dict[str, str]:
    """The name and password for a Redis, which every user of this host could read in a command line.

    Source: lmcache==0.5.6:lmcache/v1/distributed/l2_adapters/resp_l2_adapter.py:LMCACHE_RESP_PASSWORD.
    """
    store = remote_stores.parse(spec.remote) if spec.remote else None
    if store is None or store.kind.adapter != "resp":
        return {}
    login = {"LMCACHE_RESP_USERNAME": store.username, "LMCACHE_RESP_PASSWORD": store.password}
    return {name: value for name, value in login.items() if value}


def _adapters(spec: LMCacheSpec) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    if spec.disk:
        found.append(
            {
                "type": "fs_native",
                "base_path": spec.disk,
                # Without a capacity and an eviction it would fill the disk.
                "max_capacity_gb": spec.disk_gb,
                "eviction": {"eviction_policy": "LRU"},
            }
        )
    if spec.remote:
        found.append(_adapter(remote_stores.parse(spec.remote)))
    for table in spec.l2:
        if secret := next((name for name in table if is_secret_name(name)), None):
            raise SpecError(
                f"lmcache.l2: {secret} would stand in the server's command line, for everybody to read",
                "give it in the environment, as in LMCACHE_RESP_PASSWORD for Redis",
            )
        found.append(table)
    return found


def _adapter(store: Store) -> dict[str, Any]:
    """The cache server's adapter for a remote store.

    Raises:
        SpecError: it has none.
    """
    kind = store.kind
    if kind.adapter is None:
        raise SpecError(
            f"lmcache.remote: LMCache's server cannot use {store.scheme}://: {kind.why_no_adapter}",
            "take --lmcache-mode inproc on GPUs, or redis:// as the store",
        )
    host, port = store.addresses[0]
    if kind.adapter == "resp":
        if store.path not in ("", "/0"):
            raise SpecError(
                f"lmcache.remote: LMCache's server uses Redis's database 0, not {store.path[1:]}",
                "leave the number out, or take a Redis of its own",
            )
        return {"type": "resp", "host": host, "port": port}
    if kind.adapter == "valkey":
        if store.password:
            raise SpecError(
                "lmcache.remote: LMCache's server would get Valkey's password in its command line,"
                " for everybody to read",
                "name it as redis://, which takes the password another way",
            )
        return {"type": "valkey", "startup_nodes": f"{host}:{port}"}
    return {
        "type": "mooncake_store",
        "local_hostname": "127.0.0.1",
        "metadata_server": "P2PHANDSHAKE",
        "protocol": "tcp",
        "global_segment_size": "1073741824",  # bytes that this host gives to the store
        "local_buffer_size": "134217728",
        **dict(store.query),
        "master_server_address": f"{host}:{port}",
    }
