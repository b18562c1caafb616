"""Would LMCache's tiers work on this host? LMCache goes on without one that fails, with one warning."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Literal

from dynamoctl.lmcache import environment, remote_stores
from dynamoctl.monitoring import probes
from dynamoctl.planner.plan import DeploymentPlan, Tier

_GIB = 1024**3
# What a tier may take of what is free before it is worth a warning.
_WARNING_SHARE = 0.9
_RDMA = Path("/sys/class/infiniband")
# Compiled parts of LMCache that its server's adapters need.
_EXTENSIONS = {
    "fs_native": "lmcache_fs",
    "resp": "lmcache_redis",
    "mooncake_store": "lmcache_mooncake",
}
# Settings of LMCache's that dynamoctl hands to the cache server in another way.
_SERVER_USES = frozenset({"LMCACHE_CACHE_POLICY"})


@dataclass(frozen=True)
class Finding:
    """One thing that `up` would stumble over (`error`), that should be known (`warning`), or that is right.

    Attributes:
        mend: what to do; empty where it is right.
        why: what would go wrong otherwise.
    """

    level: Literal["error", "warning", "ok"]
    what: str
    mend: str = ""
    why: str = ""


def check(plan: DeploymentPlan) -> list[Finding]:
    """Every finding about the tiers of this plan."""
    findings = _ignored_settings(plan)
    for tier in plan.lmcache_tiers:
        if tier.kind in ("disk", "gds"):
            for folder in tier.place.split(","):
                findings += _folder(folder, tier)
            if tier.kind == "disk" and plan.lmcache == "mp":
                findings += _extension("fs_native", "lmcache.disk")
        if tier.kind == "gds":
            findings += _gds()
        if tier.kind == "l2":
            findings += _extension(tier.place, "lmcache.l2")
        if tier.kind == "remote":
            findings += _remote(tier, plan)
    return findings


def _folder(folder: str, tier: Tier) -> list[Finding]:
    """It is there or can be made, can be written, and has room."""
    what = f"LMCache's {tier.kind} tier {folder}"
    path = Path(folder)
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    flag = f"--lmcache-{tier.kind}"
    if not there.is_dir():
        return [Finding("error", f"{what}: {there} is no folder", f"name a folder with {flag}")]
    if not os.access(there, os.W_OK | os.X_OK):
        return [
            Finding(
                "error",
                f"{what}: {there} cannot be written",
                f"mend its permissions, or name another with {flag}",
            )
        ]
    if tier.gib is None:
        return []
    room = (shutil.disk_usage(there).free + _held(path)) / _GIB
    if tier.gib > room:
        mend = "take less with --lmcache-disk-gb, or name a folder on a larger disk"
        return [Finding("error", f"{what} may take {tier.gib:.1f} GiB; {room:.1f} GiB are free", mend)]
    if tier.gib > _WARNING_SHARE * room:
        return [
            Finding(
                "warning",
                f"{what} may take {tier.gib:.1f} GiB of the {room:.1f} GiB that are free",
                "take less with --lmcache-disk-gb",
            )
        ]
    return []


def _held(path: Path) -> int:
    """Bytes that an earlier start has left there: they are the tier's own."""
    try:
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except OSError:
        return 0


def _extension(adapter: str, field: str) -> list[Finding]:
    name = _EXTENSIONS.get(adapter)
    package = util.find_spec("lmcache")  # the package itself is not imported: that takes seconds
    folders = (package.submodule_search_locations or []) if package else []
    if name is None or package is None or any(list(Path(one).glob(f"{name}.*")) for one in folders):
        return []
    return [
        Finding(
            "error",
            f"{field}: the LMCache that is installed has no {name}, which its server needs for {adapter}",
            "build LMCache from its source with that part, or take another store, as in redis://",
        )
    ]


def _gds() -> list[Finding]:
    if not _is_there("cufile"):
        return [
            Finding(
                "error",
                "lmcache.gds: the package cufile-python is not installed",
                "install dynamoctl with its extra gpu, or take --lmcache-disk",
            )
        ]
    if not Path("/proc/driver/nvidia-fs").exists():
        return [
            Finding(
                "warning",
                "lmcache.gds: the driver nvidia-fs is not loaded: cuFile copies through CPU memory",
                "load it (modprobe nvidia-fs), or take --lmcache-disk, which is the same then",
            )
        ]
    return []


def _remote(tier: Tier, plan: DeploymentPlan) -> list[Finding]:
    store = remote_stores.parse(tier.place)
    kind = store.kind
    if plan.lmcache == "mp" and kind.adapter in _EXTENSIONS:
        if missing := _extension(kind.adapter or "", "lmcache.remote"):
            return missing
    elif kind.module and not _is_there(kind.module):
        return [
            Finding(
                "error",
                f"lmcache.remote: {store.scheme}:// needs the package {kind.package}, which is not installed",
                f"install it beside dynamoctl: pip install {kind.package}",
            )
        ]
    if store.scheme == "infinistore" and not (_RDMA.is_dir() and any(_RDMA.iterdir())):
        return [
            Finding(
                "error",
                "lmcache.remote: InfiniStore needs an RDMA card, and this host has none",
                "take another store, as in redis://",
            )
        ]
    answers, why = probes.store_answers(store)
    if answers:
        return []
    return [
        Finding(
            "error",
            f"lmcache.remote: {store.shown} cannot be used: {why}",
            "start it, mend the URL, or leave it out",
        )
    ]


def _ignored_settings(plan: DeploymentPlan) -> list[Finding]:
    """Settings for use in process do nothing where LMCache is a server."""
    if plan.lmcache != "mp":
        return []
    names = {
        name
        for name in plan.unit("lmcache").env
        if name.removeprefix(environment.PREFIX).lower() in environment.KEYS and name not in _SERVER_USES
    }
    return [
        Finding(
            "warning",
            f"{name} does nothing here: LMCache is a server beside the workers",
            "take it away; --lmcache-mode inproc, on GPUs, uses it",
        )
        for name in sorted(names)
    ]


def _is_there(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
