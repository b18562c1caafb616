"""Which GPU memory a unit waits for, and who has it."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.facts import Gpu
from dynamoctl.host import gpus
from dynamoctl.host.gpus import GpuMemory
from dynamoctl.supervisor.gpu_memory import Shortage, is_unreleased, shortages

MIB_OF_H200 = 143771
OURS, STRANGER, HIDDEN = 1, os.getpid(), 2**22 + 1


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two GPUs: what is free on each, and who holds how much."""

    seen = SimpleNamespace(free={0: 143000, 1: 143000}, held={})

    def memory() -> list[GpuMemory]:
        return [
            GpuMemory(
                Gpu(index, f"GPU-{index}aa", "H200", MIB_OF_H200),
                free,
                MIB_OF_H200 - free,
                seen.held.get(index, {}),
            )
            for index, free in seen.free.items()
        ]

    monkeypatch.setattr(gpus, "memory", memory)
    return seen


def test_nothing_is_short_where_vllms_share_is_free(nvml: Any) -> None:
    nvml.free = {0: int(0.92 * MIB_OF_H200), 1: 0}
    assert shortages(["vllm"], [0], {OURS}) == []


def test_what_a_peer_has_mapped_is_held_by_nobody(nvml: Any) -> None:
    """As seen on two H200 after SIGKILL to the prefill worker: 11.32 of 139.8 GiB free, no process there."""
    nvml.free = {0: 0, 1: 11590}
    (short,) = shortages(["vllm"], [1], {OURS})
    assert (short.gpu, short.free, short.others, short.is_by_others) == (1, 11590, {}, False)
    assert str(short) == (
        "116.9 GiB of GPU 1 (11.3 GiB free, 128.2 GiB wanted), held by no process that can be seen"
    )


def test_another_programs_memory_is_its_own(nvml: Any) -> None:
    nvml.free, nvml.held = {0: 43771, 1: 0}, {0: {STRANGER: 99500}}
    (short,) = shortages(["vllm"], [0], {OURS})
    assert short.is_by_others
    assert f"held by process {STRANGER} (" in str(short)


def test_what_the_cache_server_has_mapped_is_the_servers(nvml: Any) -> None:
    """As seen on an H200 with LMCache 0.5.6, until the server has heard nothing of the worker for 120 s."""
    nvml.free, nvml.held = {0: 0, 1: 10103}, {1: {STRANGER: 131462}}
    (short,) = shortages(["vllm"], [1], {STRANGER})
    assert (short.others, short.ours, short.is_by_others) == ({}, {STRANGER: 131462}, False)
    assert f"held by process {STRANGER} (" in str(short)


@pytest.mark.parametrize("pid", [OURS, HIDDEN])
def test_our_own_processes_and_pids_of_another_host_are_no_others(nvml: Any, pid: int) -> None:
    nvml.free, nvml.held = {0: 43771, 1: 0}, {0: {pid: 100000}}
    (short,) = shortages(["vllm"], [0], {OURS})
    assert short.others == {}
    assert not short.is_by_others


def test_too_little_of_others_leaves_the_rest_unexplained() -> None:
    assert not Shortage(0, wanted=1000, free=100, others={STRANGER: 899}, ours={}, unaccounted=0).is_by_others
    assert Shortage(0, wanted=1000, free=100, others={STRANGER: 900}, ours={}, unaccounted=0).is_by_others


def test_beside_another_program_what_a_peer_has_mapped_is_held_by_nobody_all_the_same(nvml: Any) -> None:
    """The other one was there before: it holds enough to explain it, and is not what changed."""
    nvml.free, nvml.held = {0: 15000, 1: 0}, {0: {STRANGER: 80000}}
    (short,) = shortages(["vllm", "--gpu-memory-utilization", "0.4"], [0], {OURS})
    assert short.unaccounted == MIB_OF_H200 - 15000 - 80000
    assert not short.is_by_others
    nvml.held = {0: {STRANGER: 128500}}
    (short,) = shortages(["vllm", "--gpu-memory-utilization", "0.4"], [0], {OURS})
    assert short.is_by_others


@pytest.mark.parametrize(
    "words",
    [("--gpu-memory-utilization", "0.3"), ("--gpu_memory_utilization=0.3",)],
)
def test_the_share_is_the_command_lines(nvml: Any, words: tuple[str, ...]) -> None:
    nvml.free = {0: int(0.3 * MIB_OF_H200), 1: int(0.29 * MIB_OF_H200)}
    assert shortages(["vllm", *words], [0], ()) == []
    assert [one.gpu for one in shortages(["vllm", *words], [0, 1], ())] == [1]


@pytest.mark.parametrize(
    ("words", "on"),
    [
        (("--gpu-memory-utilization", "all"), [1]),  # vLLM will say so
        ((), []),
        ((), ["MIG-1"]),  # NVML does not list it
    ],
)
def test_what_cannot_be_known_is_not_waited_for(nvml: Any, words: tuple[str, ...], on: list[Any]) -> None:
    nvml.free = {0: 0, 1: 0}
    assert shortages(["vllm", *words], on, ()) == []


def test_a_gpu_that_is_named_by_its_uuid(nvml: Any) -> None:
    nvml.free = {0: 0, 1: 143000}
    assert [one.gpu for one in shortages(["vllm"], ["GPU-0aa", "GPU-1"], ())] == ["GPU-0aa"]


def test_a_gpu_that_cannot_be_read_any_more_is_not_waited_for(nvml: Any) -> None:
    nvml.free = {0: 0}
    assert shortages(["vllm"], [1], ()) == []


@pytest.mark.parametrize(
    ("in_use", "held", "is_dead_ones"),
    [
        (0, {}, False),
        (636, {OURS: 636}, False),  # the cache server's own
        (43200, {OURS: 43200}, True),  # it has not unmapped a dead worker's yet
        (43200, {}, True),  # the driver has not freed it yet
        (43200, {STRANGER: 43200}, False),
        (43200, {HIDDEN: 43200}, True),  # a container: nobody can say whose it is
    ],
)
def test_memory_that_becomes_free_soon_is_seen(
    nvml: Any, monkeypatch: pytest.MonkeyPatch, in_use: int, held: dict[int, int], is_dead_ones: bool
) -> None:
    """A third of an H200, of a worker that was killed: there is room for the next, which must still wait."""
    nvml.free, nvml.held = {0: MIB_OF_H200 - in_use, 1: 0}, {0: held}
    assert is_unreleased([0], {OURS}) == is_dead_ones
