"""Wrong settings of LMCache's: each is an error or a warning before anything starts, none a cache that is
silently not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.checks import tiers
from dynamoctl.config.load import load
from dynamoctl.errors import DynamoctlError
from dynamoctl.monitoring import probes
from dynamoctl.planner import make_plan

from .hosts import FOLDER_MODEL, HUB_MODEL, host


@dataclass
class Asked:
    """What somebody asked for, wrongly."""

    flags: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    toml: str = ""
    yaml: str = ""
    gpus: int = 0


def flag(gpus: int = 0, **values: Any) -> Asked:
    return Asked({f"lmcache.{name}": value for name, value in values.items()}, gpus=gpus)


def env(gpus: int = 0, **values: str) -> Asked:
    return Asked(environ={f"LMCACHE_{name}": value for name, value in values.items()}, gpus=gpus)


def toml(text: str, gpus: int = 0) -> Asked:
    return Asked(toml=f"[lmcache]\n{text}\n", gpus=gpus)


def yaml(text: str) -> Asked:
    return Asked(yaml=text)


DISK = {"disk": "/cache", "disk_gb": "10"}
REDIS = "redis://127.0.0.1:6379"

ERRORS: dict[str, tuple[Asked, str]] = {
    # names
    "a misspelt variable": (env(CHUNK_SISE="256"), "LMCACHE_CHUNK_SISE"),
    "a variable in small letters": (Asked(environ={"LMCACHE_chunk_size": "256"}), "LMCACHE_chunk_size"),
    "a variable of another version": (env(WEKA_PATH="/x"), "LMCACHE_WEKA_PATH"),
    "a misspelt key": (toml("chunk_sise = 256"), "unknown key 'lmcache.chunk_sise'"),
    "a misspelt key of its own": (toml("save_decode_cash = true"), "key 'lmcache.save_decode_cash'"),
    "a misspelt key in its file": (yaml("max_local_cpu_sise: 5"), "no setting max_local_cpu_sise"),
    "two names of one setting": (toml('cpu_gb = 1\nmax_local_cpu_size = "2"'), "are the same setting"),
    "a variable that is not LMCache's": (toml('[lmcache.env]\nREDIS_URL = "x"'), "not an LMCache setting"),
    "a field's variable in its table": (toml('[lmcache.env]\nLMCACHE_CHUNK_SIZE = "9"'), "has its own key"),
    # values
    "a chunk of no tokens": (env(CHUNK_SIZE="0"), "LMCACHE_CHUNK_SIZE=0"),
    "a chunk below no tokens": (flag(chunk_size=-256), "--lmcache-chunk-size"),
    "a chunk that is a fraction": (env(CHUNK_SIZE="25.6"), "LMCACHE_CHUNK_SIZE=25.6"),
    "a chunk that is a word": (toml('chunk_size = "many"'), "lmcache.chunk_size"),
    "a chunk that is no whole block": (flag(chunk_size=200), "not a multiple of 128"),
    "a boolean that is yes": (env(SAVE_DECODE_CACHE="yes"), "LMCACHE_SAVE_DECODE_CACHE=yes"),
    "a boolean that is on, in its file": (yaml('save_decode_cache: "on"'), "drop save_decode_cache: on (in"),
    "a number in words": (env(BLOCKING_TIMEOUT_SECS="ten"), "LMCACHE_BLOCKING_TIMEOUT_SECS=ten"),
    "a list with a hole of words": (env(P2P_INIT_PORTS="1,two"), "LMCACHE_P2P_INIT_PORTS"),
    "extra settings that are no JSON": (env(EXTRA_CONFIG="{a: 1}"), "LMCACHE_EXTRA_CONFIG"),
    "extra settings that are a list": (env(EXTRA_CONFIG="[1]"), "LMCACHE_EXTRA_CONFIG"),
    "a name that begins like a real one": (env(CONTROLLER_PULL_ULR="x"), "LMCACHE_CONTROLLER_PULL_ULR"),
    "an old name that nothing reads": (env(NIXL_ROLE="sender"), "no setting LMCACHE_NIXL_ROLE"),
    "a date in a table": (toml("extra_config = {since = 2026-01-01}"), "lmcache.extra_config.since"),
    "a key that is given twice": (yaml("chunk_size: 1\nchunk_size: 2"), "line 2: chunk_size is given twice"),
    "LMCache's own disaggregation": (yaml("enable_pd: true"), "needs its proxy"),
    "a policy that the server lacks": (env(CACHE_POLICY="LFU"), "LMCACHE_CACHE_POLICY=LFU"),
    "a policy that the engine lacks": (env(gpus=1, CACHE_POLICY="ARC"), "in process knows FIFO, LFU"),
    "a way of copying that is wrong (layers)": (env(gpus=1, USE_LAYERWISE="True"), "LMCACHE_USE_LAYERWISE"),
    "a way of copying that is wrong (blend)": (env(gpus=1, ENABLE_BLENDING="1"), "LMCACHE_ENABLE_BLENDING"),
    "a way of copying that ends the engine": (env(gpus=1, USE_GPU_CONNECTOR_V3="true"), "CONNECTOR_V3"),
    "a mode that is none": (flag(mode="server"), "--lmcache-mode: 'server'"),
    "in process on a CPU": (flag(mode="inproc"), "does not work on a CPU"),
    "neither on nor off": (Asked(environ={"ENABLE_LMCACHE": "perhaps"}), "ENABLE_LMCACHE=perhaps"),
    # sizes
    "a size in words": (flag(cpu_gb="much"), "'much' is not a size"),
    "a size of an unknown unit": (flag(cpu_gb="20XB"), "'20XB' is not a size"),
    "a size of nothing": (flag(cpu_gb="0"), "0 GiB is not a valid size"),
    "a size below nothing": (toml("cpu_gb = -4"), "-4 GiB is not a valid size"),
    "a size that is true": (toml("cpu_gb = true"), "lmcache.cpu_gb"),
    "a variable's size in words": (env(MAX_LOCAL_CPU_SIZE="much"), "LMCACHE_MAX_LOCAL_CPU_SIZE=much"),
    "a disk of no size": (flag(disk="/cache"), "lmcache.disk_gb: the disk tier has no size"),
    "a disk of size zero": (flag(disk="/cache", disk_gb="0"), "0 GiB is not a valid size"),
    "a size and no disk": (flag(disk_gb="10"), "lmcache.disk: the disk tier has a size but no folder"),
    "a variable's disk of no size": (env(LOCAL_DISK="file:///cache/"), "lmcache.disk_gb: the disk tier"),
    "several disks for the server": (flag(disk="/a,/b", disk_gb="1"), "keep a copy of everything in each"),
    "several GDS folders for the server": (flag(1, gds="/a,/b", mode="mp"), "keep a copy of everything"),
    "a disk that is automatic": (flag(disk="/cache", disk_gb="auto"), "--lmcache-disk-gb"),
    # stores
    "a store without a scheme": (flag(remote="127.0.0.1:6379"), "not a store that LMCache knows"),
    "a store of an unknown scheme": (flag(remote="etcd://h:1"), "not a store that LMCache knows"),
    "a store with a port in words": (flag(remote="redis://h:http"), "has a port that is not a number"),
    "a store without a host": (env(REMOTE_URL="redis://:6379"), "has no host"),
    "TLS for the server": (flag(remote="rediss://h:1"), "does not speak TLS"),
    "a cluster for the server": (flag(remote="redis-cluster://a:1,b:2"), "takes one host"),
    "a socket for the server": (flag(remote="unix:///run/r.sock"), "takes a host and a port"),
    "another database for the server": (flag(remote=f"{REDIS}/3"), "uses Redis's database 0, not 3"),
    "InfiniStore for the server": (flag(remote="infinistore://h:1"), "no adapter for InfiniStore"),
    "a password in the server's command line": (flag(remote="valkey://:p@h:1"), "in its command line"),
    "a store that reads a file of its own": (flag(1, remote="eic://h:1"), "LMCACHE_CONFIG_FILE"),
    "a login that is not read": (flag(1, remote="resp://:p@h:1"), "does not read a user name or password"),
    "a login that is not read (Valkey)": (flag(1, remote="valkey://:p@h:1"), "does not read a user name"),
    "parts of chunks in such a store": (
        Asked({"lmcache.remote": "resp://h:1"}, {"LMCACHE_SAVE_UNFULL_CHUNK": "True"}, gpus=1),
        "LMCACHE_SAVE_UNFULL_CHUNK: LMCache keeps only whole chunks",
    ),
    "a store of the file that the server cannot use": (yaml("remote_url: rediss://h:1"), "lmcache.yaml)"),
    "a policy of the file that the server lacks": (yaml("cache_policy: LFU"), "lmcache.yaml)"),
    "a disk of a variable that a CPU lacks": (env(GDS_PATH="/x"), "(from LMCACHE_GDS_PATH)"),
    "a store of another form for the server": (flag(remote="s3://b.s3.r.amazonaws.com"), "lmcache.l2"),
    "an adapter of an unknown type": (toml('l2 = [{type = "redis"}]'), "no adapter of type 'redis'"),
    "an adapter of no type": (toml('l2 = [{host = "h"}]'), "no adapter of type None"),
    "an adapter with a password": (
        toml('l2 = [{type = "resp", host = "h", port = 1, password = "p"}]'),
        "password would stand in the server's command line",
    ),
    "an adapter in process": (toml('l2 = [{type = "mock"}]', gpus=1), "only the cache server has"),
    "GPUDirect Storage on a CPU": (flag(gds="/nvme"), "this plan has no GPU"),
    "GPUDirect Storage above a disk": (
        flag(1, gds="/nvme", mode="mp", **DISK),
        "no other tier can stand below it",
    ),
    "a file that is not there": (Asked(environ={"LMCACHE_CONFIG_FILE": "/no/such"}), "cannot be read"),
    "a file that is not YAML": (yaml("a: [1"), "is not YAML"),
    "a file that holds no settings": (yaml("- chunk_size"), "holds no settings"),
    # this host
    "a store that does not answer": (flag(remote="redis://127.0.0.1:1"), "nothing answers there"),
    "a package that is missing": (flag(1, remote="valkey://h:1"), "needs the package valkey-glide"),
    "S3 without its region": (flag(1, remote="s3://b.s3.r.amazonaws.com"), "needs s3_region for s3://"),
    "a store for audits of nothing": (flag(1, remote="audit://h:1"), "audit_actual_remote_url for audit://"),
    "no RDMA card": (flag(1, remote="infinistore://h:1"), "infinistore"),
    "a part of LMCache that is missing": (flag(remote="mooncakestore://h:1/"), "has no lmcache_mooncake"),
    "a disk that is a file": (flag(disk=__file__, disk_gb="1"), "is not a folder"),
    "a disk that is too small": (flag(disk="/tmp/kv", disk_gb="900TB"), "GiB are free"),
}  # fmt: skip

WARNINGS: dict[str, tuple[Asked, str]] = {
    "a setting that the server does not read": (
        env(SAVE_DECODE_CACHE="true"),
        "LMCACHE_SAVE_DECODE_CACHE does nothing here",
    ),
    "vLLM's own connector": (env(USE_UPSTREAM_MP="1"), "vLLM takes its own connector to LMCache's server"),
    "a disk that no rank takes": (
        flag(1, disk="/tmp/kv-a,/tmp/kv-b", disk_gb="1MiB"),
        "/tmp/kv-b is not used: each rank that caches takes one folder",
    ),
}


def outcome(asked: Asked, tmp_path: Path) -> list[str]:
    """What would be said: the error, or each finding of the checks before a start."""
    environ, config = dict(asked.environ), None
    if asked.yaml:
        (tmp_path / "lmcache.yaml").write_text(asked.yaml)
        environ["LMCACHE_CONFIG_FILE"] = str(tmp_path / "lmcache.yaml")
    if asked.toml:
        config = tmp_path / "dynamoctl.toml"
        config.write_text(asked.toml)
    facts, model = host(asked.gpus), HUB_MODEL if asked.gpus else FOLDER_MODEL
    try:
        workers = {"workers": asked.gpus} if asked.gpus > 1 else {}
        spec, sources = load({**workers, **asked.flags}, environ, config)
        plan = make_plan(spec, facts, model, sources)
    except DynamoctlError as error:
        return [f"error {error.message}"]
    return [f"{finding.level.label} {finding.what}" for finding in tiers.CHECK.run(plan, facts, model)]


@pytest.mark.packages
@pytest.mark.parametrize("wrong", ERRORS)
def test_an_error_that_says_what_is_wrong(wrong: str, tmp_path: Path) -> None:
    asked, words = ERRORS[wrong]
    said = outcome(asked, tmp_path)
    assert any(line.startswith("error") and words in line for line in said), said


@pytest.mark.packages
@pytest.mark.parametrize("wrong", WARNINGS)
def test_a_warning_that_says_what_is_wrong(wrong: str, tmp_path: Path) -> None:
    asked, words = WARNINGS[wrong]
    said = outcome(asked, tmp_path)
    assert any(line.startswith("warning") and words in line for line in said), said


def test_there_are_fifty_of_them() -> None:
    assert len(ERRORS) + len(WARNINGS) >= 50


@pytest.mark.packages
@pytest.mark.parametrize(
    "asked",
    [
        flag(cpu_gb="2GiB"),
        env(MAX_LOCAL_CPU_SIZE="20GB", CHUNK_SIZE="512"),
        toml('cpu_gb = "auto"\nlookup_timeout_ms = 500', gpus=1),
        flag(remote=REDIS),
        Asked({"lmcache.disk": "/tmp/kv", "lmcache.disk_gb": "10MiB"}),
        env(MAX_LOCAL_DISK_SIZE="0", REMOTE_URL="", LOCAL_DISK="", GDS_PATH=""),
        env(SERVER_SERVICE_HOST="10.96.0.12", SERVER_PORT="tcp://10.96.0.12:65432"),
        env(CHUNK_SIZE='"256"', LOCAL_DISK='"/tmp/kv"', MAX_LOCAL_DISK_SIZE="'0.01'"),
        env(gpus=2, LOCAL_DISK="file:///tmp/kv-a/,file:///tmp/kv-b/", MAX_LOCAL_DISK_SIZE="0.01"),
        toml("extra_config = {s3_region = 'r'}\nremote = 's3://b.s3.r.amazonaws.com'", gpus=1),
        flag(1, remote="resp://h:6379"),
        flag(1, remote="blackhole://none"),
        flag(remote="resp://h:6379"),
        Asked({"lmcache.enabled": False}, {"LMCACHE_CHUNK_SISE": "x"}),
    ],
)
def test_what_is_right_is_passed(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Callable[..., tuple[bool, str]] = lambda _: (True, "")  # noqa: E731
    monkeypatch.setattr(probes, "store_answers", answers)
    assert outcome(asked, tmp_path) == []
