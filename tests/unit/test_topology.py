"""Where workers run and which ports they get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.planner import make_plan, topology
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.planner.topology import Placement, Ports, device, place, turns
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.hosts import HUB_MODEL, host, plan, spec, uuid


def gpus_of(made: DeploymentPlan) -> dict[str, tuple[int | str, ...]]:
    return {unit.name: unit.gpus for unit in made.workers}


def memory_share(made: DeploymentPlan, name: str) -> str | None:
    argv = made.unit(name).argv
    flag = "--gpu-memory-utilization"
    return argv[argv.index(flag) + 1] if flag in argv else None


# ---- GPUs ---------------------------------------------------------------------------------


def test_decode_takes_the_first_gpu_and_prefill_the_next() -> None:
    made = plan(2, mode="disagg", gpus="0,1")
    assert gpus_of(made) == {"decode-0": (0,), "prefill-0": (1,)}
    assert memory_share(made, "decode-0") is None


def test_the_named_order_is_kept() -> None:
    assert gpus_of(plan(4, mode="disagg", gpus="3,1")) == {"decode-0": (3,), "prefill-0": (1,)}


def test_without_names_the_first_gpus_are_taken() -> None:
    assert gpus_of(plan(4, workers=3)) == {"worker-0": (0,), "worker-1": (1,), "worker-2": (2,)}


def test_a_gpu_named_twice_is_shared_and_each_gets_its_part_of_the_memory() -> None:
    made = plan(1, mode="disagg", gpus="0,0")
    assert gpus_of(made) == {"decode-0": (0,), "prefill-0": (0,)}
    assert memory_share(made, "decode-0") == memory_share(made, "prefill-0") == "0.44"


def test_only_sharers_get_less_memory() -> None:
    made = plan(2, mode="disagg", decode=2, gpus="0,1,0")
    shares = {unit.name: memory_share(made, unit.name) for unit in made.workers}
    assert shares == {"decode-0": "0.44", "decode-1": None, "prefill-0": "0.44"}


def test_shares_of_one_gpu_leave_room_for_what_lies_outside_them() -> None:
    for sharers in range(2, 9):
        made = plan(1, workers=sharers, gpus=["0"] * sharers)
        total = sum(float(memory_share(made, unit.name) or 0) for unit in made.workers)
        assert 0.7 < total <= 0.88


def test_a_gpu_named_by_index_and_by_uuid_is_one_shared_gpu() -> None:
    made = plan(1, mode="disagg", gpus=["0", uuid(0)])
    assert memory_share(made, "decode-0") == memory_share(made, "prefill-0") == "0.44"


def test_eight_gpus_two_by_two_with_tensor_parallelism() -> None:
    made = plan(8, mode="disagg", decode=2, prefill=2, tp=2)
    assert gpus_of(made) == {
        "decode-0": (0, 1),
        "decode-1": (2, 3),
        "prefill-0": (4, 5),
        "prefill-1": (6, 7),
    }
    argv = made.unit("prefill-1").argv
    assert argv[argv.index("--tensor-parallel-size") + 1] == "2"
    assert made.unit("prefill-1").env["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_uuids_are_handed_on() -> None:
    made = plan(2, mode="disagg", gpus=f"{uuid(1)},{uuid(0)}")
    assert made.unit("decode-0").env["CUDA_VISIBLE_DEVICES"] == uuid(1)
    assert made.unit("prefill-0").gpus == (uuid(0),)


@pytest.mark.parametrize("twice", ["0,0", f"0,{uuid(0)}", f"{uuid(0)},{uuid(0)[:12]}"])
def test_one_worker_cannot_have_one_gpu_twice(twice: str) -> None:
    with pytest.raises(SpecError, match="worker-0 would get GPU 0 twice") as error:
        plan(1, tp=2, gpus=twice)
    assert "a GPU each" in error.value.hint


def test_an_index_counts_within_the_callers_cuda_visible_devices() -> None:
    made = plan(8, visible=("5", "3"), mode="disagg", gpus="0,1")
    assert gpus_of(made) == {"decode-0": (5,), "prefill-0": (3,)}


def test_unnamed_gpus_are_those_that_the_caller_may_use() -> None:
    assert gpus_of(plan(8, visible=(uuid(6), uuid(7)), workers=2)) == {
        "worker-0": (uuid(6),),
        "worker-1": (uuid(7),),
    }


def test_an_index_outside_cuda_visible_devices_is_not_there() -> None:
    with pytest.raises(PreflightError) as error:
        plan(8, visible=("5",), mode="disagg", gpus="0,1")
    assert error.value.message == "GPU 1 is not there: CUDA_VISIBLE_DEVICES=5 shows 1"
    assert "unset CUDA_VISIBLE_DEVICES" in error.value.hint


@pytest.mark.parametrize(
    ("gpus", "visible", "fields", "said"),
    [
        (2, (), {}, "CUDA_VISIBLE_DEVICES= shows none of this host's 2 GPUs"),
        (1, ("-1",), {}, "CUDA_VISIBLE_DEVICES=-1 shows none of this host's 1 GPU:"),
        (1, ("none",), {}, "shows none of"),
        (2, (), {"device": "cpu"}, ""),
        (2, (), {"engine": "mocker"}, ""),
        (2, ("1",), {}, ""),
        (2, None, {}, ""),
        (0, (), {}, ""),
    ],
)
def test_a_cuda_visible_devices_that_leads_to_the_cpu_is_said(
    gpus: int, visible: tuple[str, ...] | None, fields: dict[str, str], said: str
) -> None:
    notes = topology.notes(spec(**fields), host(gpus, visible=visible))
    assert len(notes) == bool(said)
    for note in notes:
        assert said in note.what
        assert "--device cpu" in note.fix


def test_a_uuid_outside_cuda_visible_devices_is_not_there() -> None:
    with pytest.raises(PreflightError, match="shows 1"):
        plan(2, visible=("0",), gpus=uuid(1))


@pytest.mark.parametrize("visible", [("1",), (uuid(1),), (uuid(1)[:12],)])
def test_a_uuid_may_be_shown_by_any_of_its_names(visible: tuple[str, ...]) -> None:
    assert gpus_of(plan(2, visible=visible, gpus=uuid(1))) == {"worker-0": (uuid(1),)}


def test_a_mig_instance_is_taken_by_its_name() -> None:
    mig = "MIG-8f1fbf05-1f9b-5f0c-9d0c-000000000000"
    assert gpus_of(plan(1, visible=(mig,), gpus="0")) == {"worker-0": (mig,)}


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ((0,), (0,), True),
        ((0,), (1,), False),
        ((0, 1), (1, 2), True),
        ((0, 1), (2, 3), False),
        ((0,), (uuid(0),), True),
        ((uuid(0)[:12],), (uuid(0),), True),
        ((0,), (uuid(1),), False),
        (("MIG-a",), ("MIG-a",), True),
        (("MIG-a",), ("MIG-b",), False),
        ((), (), False),
        ((0,), (), False),
    ],
)
def test_who_shares_a_gpu(one: tuple[int | str, ...], other: tuple[int | str, ...], shared: bool) -> None:
    a, b = Placement("a", "agg", one), Placement("b", "agg", other)
    assert list(turns([a, b], host(4))) == [[], ["a"] if shared else []]
    assert list(turns([b, a], host(4))) == [[], ["b"] if shared else []]


# ---- the device ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "gpus", "visible", "expected"),
    [
        ({}, 0, None, "cpu"),
        ({}, 1, None, "cuda"),
        ({}, 1, (), "cpu"),
        ({}, 1, ("-1",), "cpu"),
        ({}, 1, ("NoDevFiles",), "cpu"),
        ({}, 2, ("1", "-1"), "cuda"),
        ({"device": "cpu"}, 1, None, "cpu"),
        ({"device": "cuda"}, 0, None, "cuda"),
        ({"gpus": "0"}, 0, None, "cuda"),
        ({"engine": "mocker"}, 1, None, "cpu"),
    ],
)
def test_device(fields: dict[str, Any], gpus: int, visible: tuple[str, ...] | None, expected: str) -> None:
    assert device(spec(**fields), host(gpus, visible=visible)) == expected


# ---- cores --------------------------------------------------------------------------------


def test_two_cpu_workers_compute_on_half_of_the_cores_each_and_are_bound_to_none() -> None:
    made = plan(cores=4, mode="disagg")
    assert [one.threads for one in place(spec(mode="disagg"), host(cores=4))] == [2, 2]
    for unit in made.workers:
        assert unit.env["OMP_NUM_THREADS"] == "2"
        assert unit.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_cpu_worker_alone_is_left_to_vllm() -> None:
    assert place(spec(), host(cores=4))[0].threads == 0
    assert not {"VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"} & set(plan(cores=4).unit("worker-0").env)


def test_a_cpu_worker_with_nixl_is_bound_to_no_core_alone_too() -> None:
    environ = plan(cores=4, lmcache={"enabled": False}).unit("worker-0").env
    assert environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "OMP_NUM_THREADS" not in environ


def test_with_more_workers_than_cores_each_has_a_thread() -> None:
    assert [one.threads for one in place(spec(workers=3), host(cores=2))] == [1, 1, 1]


def test_ranks_divide_their_workers_threads() -> None:
    made = plan(cores=8, mode="disagg", tp=2)
    assert {unit.env["OMP_NUM_THREADS"] for unit in made.workers} == {"2"}
    assert {unit.env["OMP_NUM_THREADS"] for unit in plan(cores=2, mode="disagg", tp=2).workers} == {"1"}


def test_a_mocker_has_no_threads_of_ours() -> None:
    assert all(not one.threads for one in place(spec(mode="disagg", engine="mocker"), host(cores=4)))


# ---- ports --------------------------------------------------------------------------------


def test_the_http_port_is_never_handed_out() -> None:
    ports = Ports((20000, 20001), taken=20000)
    assert ports.take() == 20001


def test_a_row_of_ports_steps_over_gaps() -> None:
    ports = Ports((20000, 20002, 20003, 20004, 20006), taken=8000)
    assert ports.take_row(3) == 20002
    assert ports.take() == 20006


def test_a_row_of_ports_does_not_run_over_the_http_port() -> None:
    assert Ports(tuple(range(20000, 20010)), taken=20001).take_row(2) == 20002


def test_no_ports_left_is_for_the_host_to_mend() -> None:
    with pytest.raises(PreflightError, match="no 2 free TCP ports in a row"):
        Ports((20000, 20002), taken=8000).take_row(2)


# ---- properties of every plan ---------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> tuple[DeploymentPlan, DeploymentPlan, int, int]:
    """A plan, the same one made again, its tensor parallelism and how many workers it must have."""
    mode = draw(st.sampled_from(["agg", "disagg"]))
    counts = {"workers": 1, "decode": 1, "prefill": 1}
    for role in ["workers"] if mode == "agg" else ["decode", "prefill"]:
        counts[role] = draw(st.integers(1, 4))
    wanted = spec(
        mode=mode,
        **counts,
        tp=draw(st.integers(1, 4)),
        device=draw(st.sampled_from(["cuda", "cpu"])),
        engine=draw(st.sampled_from(["vllm", "mocker"])),
        port=draw(st.sampled_from([8000, 20000, 20003, 20007])),
        router_mode=draw(st.sampled_from(["round-robin", "kv"])),
        start=draw(st.sampled_from(["ordered", "overlapped"])),
        lmcache={"enabled": draw(st.booleans()), "mode": draw(st.sampled_from(["auto", "mp"]))},
    )
    gaps = draw(st.sets(st.integers(20000, 20060)))
    facts = host(32, cores=8, free_ports=tuple(p for p in range(20000, 20400) if p not in gaps))
    first, second = (make_plan(wanted, facts, HUB_MODEL) for _ in range(2))
    return first, second, wanted.tp, wanted.replicas


@given(plans())
def test_no_two_listeners_share_a_port(made: tuple[DeploymentPlan, DeploymentPlan, int, int]) -> None:
    first, _, tp, _ = made
    taken = [first.port]
    for unit in first.units:
        for name, port in unit.ports.items():
            if name != "http" or unit.role != "frontend":
                taken += range(port, port + (tp if name == "nixl" else 1))
    assert len(set(taken)) == len(taken)
    assert max(taken) <= 32767


@given(plans())
def test_every_gpu_worker_has_a_gpu_a_rank_and_no_other_unit_has_any(
    made: tuple[DeploymentPlan, DeploymentPlan, int, int],
) -> None:
    first, _, tp, replicas = made
    assert len(first.workers) == replicas
    for unit in first.units:
        assert len(unit.gpus) == (tp if unit.is_worker and first.device == "cuda" else 0)


@given(plans())
def test_units_come_in_the_order_frontend_cache_decode_prefill(
    made: tuple[DeploymentPlan, DeploymentPlan, int, int],
) -> None:
    order = {"frontend": 0, "cache": 1, "agg": 2, "decode": 2, "prefill": 3}
    ranks = [order[unit.role] for unit in made[0].units]
    assert ranks == sorted(ranks)
    assert ranks.count(0) == 1


@given(plans())
def test_a_unit_waits_only_for_units_before_it(
    made: tuple[DeploymentPlan, DeploymentPlan, int, int],
) -> None:
    seen: set[str] = set()
    for unit in made[0].units:
        assert set(unit.after) <= seen
        assert unit.name not in seen
        seen.add(unit.name)


@given(plans())
def test_the_same_spec_and_facts_give_the_same_plan(
    made: tuple[DeploymentPlan, DeploymentPlan, int, int],
) -> None:
    assert made[0] == made[1]


@given(plans())
def test_a_plan_survives_json(made: tuple[DeploymentPlan, DeploymentPlan, int, int]) -> None:
    assert DeploymentPlan.from_json(json.loads(json.dumps(made[0].as_json()))) == made[0]
