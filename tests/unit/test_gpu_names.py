"""The names of GPUs: beginnings of UUIDs, ranges, MIG, in --gpus and in CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from dynamoctl.checks import gpus as gpu_checks
from dynamoctl.config.load import load_spec
from dynamoctl.errors import DynamoctlError, PreflightError, SpecError
from dynamoctl.facts import Gpu, HostFacts, MigInstance
from dynamoctl.host import gpus
from dynamoctl.planner import make_plan
from dynamoctl.planner.plan import DeploymentPlan

from tests.unit.hosts import GPU_VERSIONS, HUB_MODEL, host, plan, spec, uuid

UUIDS = ("GPU-8932f937-0000", "GPU-8932aaaa-0000", "GPU-11111111-0000")


def facts_of(*gpus_of_host: Gpu, visible: str | None = None) -> HostFacts:
    entries = None if visible is None else tuple(visible.split(","))
    return replace(host(versions=GPU_VERSIONS), gpus=gpus_of_host, visible_gpus=entries)


THREE = tuple(Gpu(index, name, "H200", 143771) for index, name in enumerate(UUIDS))


def names(facts: HostFacts, **fields: Any) -> list[tuple[int | str, ...]]:
    made = make_plan(spec(**fields), facts, HUB_MODEL)
    for unit in made.workers:
        assert unit.env["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, unit.gpus))
    return [unit.gpus for unit in made.workers]


def refusal(facts: HostFacts, **fields: Any) -> DynamoctlError:
    with pytest.raises(DynamoctlError) as error:
        make_plan(spec(**fields), facts, HUB_MODEL)
    return error.value


# ---- beginnings of UUIDs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "named", "expected"),
    [
        (None, "GPU-8932f937", [(UUIDS[0],)]),
        (None, "GPU-8932f", [(UUIDS[0],)]),
        (None, "GPU-1", [(UUIDS[2],)]),
        (None, UUIDS[1], [(UUIDS[1],)]),
        (None, "GPU-zzz", [("GPU-zzz",)]),  # doctor says that it is not there
        ("GPU-8932f937", "0", [(UUIDS[0],)]),
        ("GPU-1,GPU-8932f", "1", [(UUIDS[0],)]),
        ("2", "GPU-1", [(UUIDS[2],)]),
        ("GPU-1", "GPU-111", [(UUIDS[2],)]),
        ("GPU-1", (), [(UUIDS[2],)]),
    ],
)
def test_workers_get_whole_uuids_because_vllm_takes_no_beginning(
    visible: str | None, named: object, expected: list[tuple[str, ...]]
) -> None:
    assert names(facts_of(*THREE, visible=visible), gpus=named) == expected


def test_a_beginning_stays_as_it_is_if_no_gpu_is_listed() -> None:
    assert names(facts_of(), gpus="GPU-8932f937") == [("GPU-8932f937",)]


@pytest.mark.parametrize(("visible", "named"), [(None, "GPU-8932"), ("GPU-8932", "0"), ("2,GPU-8", "1")])
def test_an_ambiguous_beginning_is_refused_with_the_uuids_that_it_could_be(
    visible: str | None, named: str
) -> None:
    error = refusal(facts_of(*THREE, visible=visible), gpus=named)
    assert isinstance(error, PreflightError)
    assert "is ambiguous" in error.message
    assert UUIDS[0] in error.hint


def test_a_whole_uuid_that_begins_another_is_not_ambiguous() -> None:
    facts = facts_of(Gpu(0, "GPU-1", "H200", 1), Gpu(1, "GPU-11", "H200", 1))
    assert names(facts, gpus="GPU-1") == [("GPU-1",)]


def test_a_gpu_by_its_index_and_by_a_beginning_is_one_gpu() -> None:
    made = make_plan(spec(mode="disagg", gpus="0,GPU-8932f"), facts_of(*THREE), HUB_MODEL)
    assert all("--gpu-memory-utilization" in unit.argv for unit in made.workers)


def missing(facts: HostFacts, made: DeploymentPlan) -> list[str]:
    return [finding.what for finding in gpu_checks.GPUS.run(made, facts, HUB_MODEL)]


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ("7", "GPU 7 is not there; this host has 0, 1, 2"),
        ("GPU-zzz", f"GPU GPU-zzz is not there; this host has {', '.join(UUIDS)}"),
        ("MIG-1", "GPU MIG-1 is not there; this host has no MIG instances"),
    ],
)
def test_what_is_not_there_is_said_in_the_form_that_was_tried(named: str, what: str) -> None:
    for visible, gpus_named in ((None, named), (named, "0")):
        facts = facts_of(*THREE, visible=visible)
        made = make_plan(spec(gpus=gpus_named), facts, HUB_MODEL)
        assert missing(facts, made) == [what]
        (finding,) = gpu_checks.GPUS.run(made, facts, HUB_MODEL)
        assert ("fix CUDA_VISIBLE_DEVICES" in finding.fix) is (visible is not None)


# ---- a worker's GPUs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "named", "expected"),
    [
        (None, "0,GPU-1", (0, 2)),
        (None, "GPU-1,GPU-8932f", (UUIDS[2], UUIDS[0])),
        (f"{UUIDS[1]},0", "0-1", (1, 0)),
    ],
)
def test_a_worker_gets_names_of_one_kind_because_cuda_reads_no_other(
    visible: str | None, named: str, expected: tuple[int | str, ...]
) -> None:
    assert names(facts_of(*THREE, visible=visible), tp=2, gpus=named) == [expected]


def test_names_of_two_kinds_are_refused_if_nobody_knows_the_index() -> None:
    error = refusal(facts_of(), tp=2, gpus="0,GPU-1")
    assert isinstance(error, SpecError)
    assert "worker-0 would get GPU GPU-1 beside an index" in error.message


# ---- ranges -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "gpus_named"),
    [
        ("0-3", ("0", "1", "2", "3")),
        ("0-2,6", ("0", "1", "2", "6")),
        ("6,0-2", ("6", "0", "1", "2")),
        ("3-3", ("3",)),
        ("00-01", ("0", "1")),
        ("0-7:2", ("0", "2", "4", "6")),
        (" 0-1 , 4 ", ("0", "1", "4")),
        (["0-1", 4], ("0", "1", "4")),
        (["0-1", uuid(5)], ("0", "1", uuid(5))),
        (f"{uuid(5)},0-1", (uuid(5), "0", "1")),
        ("0-1,1-2", ("0", "1", "1", "2")),
    ],
)
def test_ranges_as_taskset_and_slurm_write_them(given: object, gpus_named: tuple[str, ...]) -> None:
    assert load_spec({"gpus": given, "workers": len(gpus_named)}, {}).gpus == gpus_named


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("3-0", "'3-0' is a range that counts down: write 0-3"),
        ("0,7-6:2", "'7-6:2' is a range that counts down: write 6-7"),
        ("0-3:0", "'0-3:0' has a step of 0: write 0-3"),
        ("0-", "'0-' is not a GPU index or UUID"),
        ("-3", "'-3' is not a GPU index or UUID"),
        ("0-GPU-1", "'0-GPU-1' is not a GPU index or UUID"),
        ("[0-3]", "'[0-3]' is not a GPU index or UUID"),
        ("0--3", "'0--3' is not a GPU index or UUID"),
    ],
)
def test_a_range_that_is_empty_is_refused(given: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        load_spec({"gpus": given}, {})
    assert error.value.message.startswith(f"--gpus: {message}")


def test_a_range_that_does_not_fit_says_what_would() -> None:
    with pytest.raises(SpecError, match=r"4 named, but 1 worker .* add --workers 4 or --tp 4"):
        load_spec({"gpus": "0-3"}, {})


@pytest.mark.parametrize(
    ("visible", "fields", "expected"),
    [
        ("0-3", {"tp": 4}, [(0, 1, 2, 3)]),
        ("4-7:2", {"workers": 2}, [(4,), (6,)]),
        ("2-3,GPU-x", {"gpus": "1"}, [(3,)]),
        ("1,-1,4-7", {}, [(1,)]),  # CUDA stops at what is not a GPU
    ],
)
def test_a_range_in_cuda_visible_devices(
    visible: str, fields: dict[str, Any], expected: list[tuple[int, ...]]
) -> None:
    assert names(replace(host(8), visible_gpus=tuple(visible.split(","))), **fields) == expected


def test_an_empty_range_in_cuda_visible_devices_is_refused() -> None:
    with pytest.raises(SpecError) as error:
        plan(8, visible=("3-0",))
    assert error.value.message == "CUDA_VISIBLE_DEVICES: '3-0' is a range that counts down: write 0-3"


# ---- MIG ----------------------------------------------------------------------------------------


def mig(index: int, *instances: int, name: str = "H200") -> Gpu:
    """A GPU in MIG mode, with instances of these numbers."""
    made = tuple(MigInstance(n, f"MIG-{index}{n}-0000", f"{n + 1}/0", 18000) for n in instances)
    return Gpu(index, f"GPU-{index}", name, 143771, made)


@pytest.mark.parametrize(
    ("on", "visible", "named", "expected"),
    [
        ((mig(0, 0, 1), mig(1, 0)), None, "MIG-00-0000", "MIG-00-0000"),
        ((mig(0, 0, 1), mig(1, 0)), None, "MIG-01", "MIG-01-0000"),
        ((mig(0, 0, 1), mig(1, 0)), None, "MIG-GPU-0/2/0", "MIG-01-0000"),
        ((mig(0, 0, 1), mig(1, 0)), "MIG-01", "0", "MIG-01-0000"),
        ((mig(0, 0, 1), mig(1, 0)), "0", "MIG-01", "MIG-01-0000"),
        # Alone on its GPU, it has that one's index, which vLLM can look up whatever its own number is.
        ((mig(0, 3),), None, "MIG-03", 0),
        ((mig(0, 3),), None, "0", 0),
        ((mig(0, 3),), None, (), 0),
        ((mig(0, 3),), "MIG-03-0000", (), 0),
        ((mig(0, 3),), "0", "MIG-03", 0),
        # NVML lists nothing here.
        ((), None, "MIG-03", "MIG-03"),
        ((), "MIG-03", "0", "MIG-03"),
    ],
)
def test_mig_instances(on: tuple[Gpu, ...], visible: str | None, named: object, expected: int | str) -> None:
    facts = facts_of(*on, visible=visible)
    assert names(facts, device="cuda", gpus=named) == [(expected,)]
    if on:
        assert missing(facts, make_plan(spec(gpus=named), facts, HUB_MODEL)) == []


TWO = facts_of(mig(0, 0, 1), mig(1, 0))


@pytest.mark.parametrize(
    ("facts", "fields", "message"),
    [
        (facts_of(mig(0)), {}, "GPU 0 is in MIG mode and has no instances"),
        (TWO, {"gpus": "0"}, "GPU 0 is in MIG mode and has 2 instances"),
        (TWO, {"gpus": "GPU-0"}, "GPU GPU-0 is in MIG mode and has 2 instances"),
        (TWO, {"gpus": "MIG-0"}, "GPU MIG-0 is ambiguous: 2 UUIDs begin with it"),
        (TWO, {"gpus": "MIG-00,1", "tp": 2}, "of which CUDA shows a process only one, and --tp 2 needs 2"),
        (TWO, {"gpus": "MIG-00,1", "mode": "disagg"}, "KV blocks cannot go from one instance to another"),
        (TWO, {"gpus": "MIG-00", "lmcache": {"mode": "mp"}}, "LMCache's server cannot reach its memory"),
        (facts_of(), {"gpus": "MIG-1,MIG-2", "tp": 2}, "--tp 2 needs 2"),
        (facts_of(mig(0, 0, 1)), {"gpus": "MIG-01"}, "vLLM takes that for GPU 1, which does not exist"),
        (
            facts_of(mig(0, 0, 1), Gpu(1, "GPU-1", "L4", 1)),
            {"gpus": "MIG-01"},
            "vLLM takes that for GPU 1, of another kind (L4)",
        ),
        (replace(TWO, visible_gpus=("1",)), {"gpus": "MIG-00"}, "CUDA_VISIBLE_DEVICES=1 shows 1"),
        (replace(TWO, visible_gpus=("MIG-01",)), {"gpus": "MIG-00"}, "CUDA_VISIBLE_DEVICES=MIG-01 shows 1"),
    ],
)
def test_what_mig_cannot_do_is_refused_with_the_reason(
    facts: HostFacts, fields: dict[str, Any], message: str
) -> None:
    error = refusal(facts, **fields)
    assert isinstance(error, PreflightError)
    assert message in error.message
    assert error.hint


def test_workers_share_a_mig_instance_and_its_memory() -> None:
    facts = facts_of(mig(0, 3))
    made = make_plan(spec(workers=2, gpus="0,MIG-03", start="overlapped"), facts, HUB_MODEL)
    for unit in made.workers:
        assert unit.gpus == (0,)
        size = int(unit.argv[unit.argv.index("--kv-cache-memory-bytes") + 1])
        assert size < 0.44 * 18000 * 1024**2


class _NvmlError(Exception):
    pass


def test_instances_are_read_by_any_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU 0 has no MIG, GPU 1 is in MIG mode with instances 0 and 2, GPU 2 is lost."""

    def memory(handle: object, _version: int = 1) -> SimpleNamespace:
        if handle == 1:
            raise _NvmlError("no permission")
        mib = 143771 if handle == 0 else 18000
        return SimpleNamespace(total=mib << 20, used=1 << 20, free=(mib - 1) << 20)

    def mode(handle: int) -> list[int]:
        if handle == 0:
            raise _NvmlError("not supported")
        return [1, 1]

    def by_index(index: int) -> int:
        if index == 2:
            raise _NvmlError("lost")
        return index

    def instance(handle: int, number: int) -> str:
        if number == 1:
            raise _NvmlError("not found")
        return f"{handle}.{number}"

    nvml = SimpleNamespace(
        NVMLError=_NvmlError,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlMemory_v2=2,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=by_index,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUUID=lambda handle: f"MIG-{handle}" if isinstance(handle, str) else f"GPU-{handle}",
        nvmlDeviceGetName=lambda handle: "H200",
        nvmlDeviceGetMigMode=mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda handle: 3,
        nvmlDeviceGetMigDeviceHandleByIndex=instance,
        nvmlDeviceGetGpuInstanceId=lambda handle: 7,
        nvmlDeviceGetComputeInstanceId=lambda handle: 0,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [],
    )
    monkeypatch.setattr(gpus, "session", lambda: contextlib.nullcontext(nvml))
    instances = (MigInstance(0, "MIG-1.0", "7/0", 18000), MigInstance(2, "MIG-1.2", "7/0", 18000))
    assert gpus.list_gpus() == (
        Gpu(0, "GPU-0", "H200", 143771),
        Gpu(1, "GPU-1", "H200", 36000, instances),
    )
    assert gpus.memory_used() == {0: 1}
    monkeypatch.setattr(pynvml, "NVMLError", _NvmlError)
    assert [one.gpu.index for one in gpus.memory()] == [0]
    missing_names = [name for name in vars(nvml) if not hasattr(pynvml, name)]
    assert missing_names == []
