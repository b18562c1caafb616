"""LMCache's storage tiers: LMCache continues without one that fails, with one warning in its log."""

from __future__ import annotations

import json
import os
import shutil
from importlib import util
from pathlib import Path

from dynamoctl.checks.base import GIB, Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.lmcache import remote_stores
from dynamoctl.monitoring import probes
from dynamoctl.planner.lmcache import ignored_by_server
from dynamoctl.planner.plan import DeploymentPlan, Tier
from dynamoctl.planner.secrets import redact

# The share of the free space from which on a tier's size is worth a warning.
_WARNING_SHARE = 0.9
_RDMA = Path("/sys/class/infiniband")
# Adapter of LMCache's server -> the compiled part of LMCache that it needs.
_EXTENSIONS = {
    "fs_native": "lmcache_fs",
    "resp": "lmcache_redis",
    "mooncake_store": "lmcache_mooncake",
}


def _tiers(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    findings = [*_ignored_settings(plan), *_vllms_connector(plan)]
    for tier in plan.lmcache_tiers:
        if tier.kind in ("disk", "gds"):
            findings += _folder(tier)
            if tier.kind == "disk" and plan.lmcache == "mp":
                findings += _extension("fs_native", "lmcache.disk")
        if tier.kind == "gds":
            findings += _gds()
        if tier.kind == "l2":
            findings += _extension(tier.place, "lmcache.l2")
        if tier.kind == "remote":
            findings += _remote(tier, plan)
    return findings


def _folder(tier: Tier) -> list[Finding]:
    """It exists or can be created, it can be written, and it has room."""
    what = f"LMCache's {tier.kind} tier {tier.place}"
    path = Path(tier.place)
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    flag = f"--lmcache-{tier.kind}"
    if not existing.is_dir():
        return [Finding(Level.ERROR, f"{what}: {existing} is not a folder", f"name a folder with {flag}")]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [
            Finding(
                Level.ERROR,
                f"{what}: {existing} is not writable",
                f"fix its permissions, or name another with {flag}",
            )
        ]
    if tier.gib == 0:
        fix = "name fewer folders, or take more workers or a higher --tp"
        return [Finding(Level.WARNING, f"{what} is not used: each rank that caches takes one folder", fix)]
    if tier.gib is None:
        return []
    free_gib = (shutil.disk_usage(existing).free + _bytes_in(path)) / GIB
    if tier.gib > free_gib:
        fix = "take less with --lmcache-disk-gb, or name a folder on a larger disk"
        return [Finding(Level.ERROR, f"{what} may take {tier.gib:.1f} GiB; {free_gib:.1f} GiB are free", fix)]
    if tier.gib > _WARNING_SHARE * free_gib:
        return [
            Finding(
                Level.WARNING,
                f"{what} may take {tier.gib:.1f} GiB of the {free_gib:.1f} GiB that are free",
                "take less with --lmcache-disk-gb",
            )
        ]
    return []


def _bytes_in(path: Path) -> int:
    """Bytes that an earlier start has left there: they belong to the tier."""
    try:
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except OSError:
        return 0


def _extension(adapter: str, field: str) -> list[Finding]:
    extension = _EXTENSIONS.get(adapter)
    return _missing(extension, adapter, field) if extension else []


def _missing(extension: str, needed_for: str, field: str) -> list[Finding]:
    package = util.find_spec("lmcache")  # the package itself is not imported: that takes seconds
    if package is None:
        return []
    folders = package.submodule_search_locations or []
    if any(list(Path(folder).glob(f"{extension}.*")) for folder in folders):
        return []
    return [
        Finding(
            Level.ERROR,
            f"{field}: the installed LMCache has no {extension}, which it needs for {needed_for}",
            "build LMCache from source with it, or use another store, such as redis://",
        )
    ]


def _gds() -> list[Finding]:
    if not _is_installed("cufile"):
        return [
            Finding(
                Level.ERROR,
                "lmcache.gds: the package cufile-python is not installed",
                "install dynamoctl with its extra gpu, or use --lmcache-disk",
            )
        ]
    if not Path("/proc/driver/nvidia-fs").exists():
        return [
            Finding(
                Level.WARNING,
                "lmcache.gds: the driver nvidia-fs is not loaded, so cuFile copies through CPU memory",
                "load it (modprobe nvidia-fs), or use --lmcache-disk, which does the same",
            )
        ]
    return []


def _remote(tier: Tier, plan: DeploymentPlan) -> list[Finding]:
    store = remote_stores.parse(tier.place)
    kind = store.kind
    extension = kind.extension if plan.lmcache == "inproc" else _EXTENSIONS.get(kind.adapter or "")
    if extension:
        if missing := _missing(extension, f"{store.scheme}://", "lmcache.remote"):
            return missing
    elif kind.module and not _is_installed(kind.module):
        return [
            Finding(
                Level.ERROR,
                f"lmcache.remote: {store.scheme}:// needs the package {kind.package}, which is not installed",
                f"install it in dynamoctl's environment: pip install {kind.package}",
            )
        ]
    if store.scheme == "infinistore" and not (_RDMA.is_dir() and any(_RDMA.iterdir())):
        return [
            Finding(
                Level.ERROR,
                "lmcache.remote: InfiniStore needs an RDMA card, and this host has none",
                "use another store, such as redis://",
            )
        ]
    if plan.lmcache == "inproc" and (unset := _unset_settings(store, plan)):
        return unset
    answers, why = probes.store_answers(store)
    if answers:
        return []
    return [
        Finding(
            Level.ERROR,
            f"lmcache.remote: {store.redacted_url} cannot be used: {why}",
            "start it, fix the URL, or leave it out",
        )
    ]


def _unset_settings(store: remote_stores.Store, plan: DeploymentPlan) -> list[Finding]:
    """What LMCache in process does not take from the URL."""
    kind = store.kind
    caching = next((unit for unit in plan.workers if "LMCACHE_REMOTE_URL" in unit.env), None)
    if not kind.settings or caching is None:
        return []
    extra = json.loads(caching.env.get("LMCACHE_EXTRA_CONFIG") or "{}")
    environ = {**os.environ, **caching.env}
    if any(extra.get(name) for name in kind.settings) or any(environ.get(name) for name in kind.variables):
        return []
    return [
        Finding(
            Level.ERROR,
            f"lmcache.remote: LMCache needs {' or '.join(kind.settings)} for {store.scheme}://, and would run"
            " without the store",
            "set it in [lmcache.extra_config]" + "".join(f", or {name}" for name in kind.variables),
        )
    ]


def _ignored_settings(plan: DeploymentPlan) -> list[Finding]:
    """Settings for LMCache in process, which its server does not read."""
    if plan.lmcache != "mp":
        return []
    return [
        Finding(
            Level.WARNING,
            f"{name} does nothing here: LMCache is a server beside the workers",
            "remove it; only --lmcache-mode inproc, on GPUs, uses it",
        )
        for name in ignored_by_server(plan.unit("lmcache").env)
    ]


def _vllms_connector(plan: DeploymentPlan) -> list[Finding]:
    """vllm==0.31.0:vllm/distributed/kv_transfer/kv_connector/v1/lmcache_mp_connector.py."""
    name = "LMCACHE_USE_UPSTREAM_MP"
    if plan.lmcache != "mp" or not any(unit.env.get(name) for unit in plan.workers):
        return []
    what = f"{name}: vLLM takes its own connector to LMCache's server, with which dynamoctl was not tested"
    return [Finding(Level.WARNING, what, "unset it")]


def _is_installed(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return ", ".join(f"{tier.kind} {redact(tier.place)}" for tier in plan.lmcache_tiers)


CHECK = Check("tiers", _tiers, _ok)
