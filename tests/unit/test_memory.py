"""The parts of a shared GPU: who is given a size of its KV cache, and which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.facts import Gpu
from dynamoctl.planner import make_plan
from dynamoctl.planner.plan import DeploymentPlan

from tests.unit.hosts import HUB_MODEL, host, plan, spec, uuid

GIB = 1024**3
SIZE = "--kv-cache-memory-bytes"
PART = "--gpu-memory-utilization"
UNKNOWN = replace(HUB_MODEL, weights_gib=None)
HUGE = replace(HUB_MODEL, weights_gib=60.0)
# A share of 0.44 of 81559 MiB, less 1.4 GiB of weights and 4 GiB for the engine.
WHOLE = 29.64


def together(host_gpus: int = 1, /, **fields: Any) -> DeploymentPlan:
    """The plan of workers that share GPU 0 and start together."""
    return plan(host_gpus, **{"mode": "disagg", "gpus": "0,0", "start": "overlapped", **fields})


def sizes(made: DeploymentPlan) -> dict[str, float]:
    """Worker -> the GiB that the planner gives its KV cache; only those that get a size from it."""
    return {
        unit.name: round(int(unit.argv[unit.argv.index(SIZE) + 1]) / GIB, 2)
        for unit in made.workers
        if SIZE in unit.argv
    }


def test_sharers_that_start_together_are_given_the_size_that_they_cannot_measure() -> None:
    assert sizes(together()) == {"decode-0": WHOLE, "prefill-0": WHOLE}


@pytest.mark.parametrize(
    ("gpus", "fields"),
    [
        pytest.param(1, {"mode": "disagg", "gpus": "0,0"}, id="sharers-that-start-in-turn"),
        pytest.param(2, {"mode": "disagg", "gpus": "0,1", "start": "overlapped"}, id="a-gpu-each"),
        pytest.param(0, {"mode": "disagg", "start": "overlapped"}, id="cpu"),
    ],
)
def test_others_measure_for_themselves(gpus: int, fields: dict[str, Any]) -> None:
    made = plan(gpus, model_facts=UNKNOWN, **fields)
    assert not any(word.startswith(SIZE) for unit in made.workers for word in unit.argv)


def test_beside_sharers_a_worker_with_a_gpu_of_its_own_measures() -> None:
    assert set(sizes(together(2, decode=2, gpus="0,1,0"))) == {"decode-0", "prefill-0"}


@pytest.mark.parametrize("gpus", [["0", uuid(0)], [uuid(0), uuid(0)[:12]]])
def test_the_size_is_the_same_however_the_gpu_is_named(gpus: list[str]) -> None:
    assert sizes(together(gpus=gpus)) == {"decode-0": WHOLE, "prefill-0": WHOLE}


def test_each_rank_holds_its_part_of_the_weights() -> None:
    made = together(2, tp=2, gpus="0,1,0,1", model_facts=replace(HUB_MODEL, weights_gib=20.0))
    assert sizes(made) == {"decode-0": 21.04, "prefill-0": 21.04}


def test_the_smallest_of_a_workers_gpus_decides() -> None:
    small = Gpu(1, uuid(1), "NVIDIA L4", 23034)
    facts = replace(host(2), gpus=(host(2).gpus[0], small))
    wanted = spec(mode="disagg", tp=2, gpus="0,1,0,1", start="overlapped")
    assert sizes(make_plan(wanted, facts, HUB_MODEL)) == {"decode-0": 5.2, "prefill-0": 5.2}


# ---- the user's own arguments ------------------------------------------------------------------


@pytest.mark.parametrize("own", [(SIZE, "2G"), (f"{SIZE}=2G",), ("--kv_cache_memory_bytes", "2G")])
def test_a_size_of_the_users_own_is_the_only_one(own: tuple[str, ...]) -> None:
    made = together(engine_args=own, model_facts=UNKNOWN)
    for unit in made.workers:
        assert unit.argv[-len(own) :] == own
        assert SIZE not in unit.argv[: -len(own)]


def test_a_size_of_the_users_own_for_one_role_leaves_the_other_to_the_planner() -> None:
    made = together(decode_args=(f"{SIZE}=2G",))
    assert sizes(made) == {"prefill-0": WHOLE}


@pytest.mark.parametrize(
    "own",
    [
        (PART, "0.3"),
        (f"{PART}=0.3",),
        ("--gpu_memory_utilization=0.3",),
        (f"{PART}=0.9", PART, "0.3"),
    ],
)
def test_the_size_follows_the_users_own_part_of_the_gpu_and_the_last_word_counts(
    own: tuple[str, ...],
) -> None:
    assert sizes(together(engine_args=own)) == {"decode-0": 18.49, "prefill-0": 18.49}


def test_each_role_may_have_a_part_of_its_own() -> None:
    made = together(decode_args=(PART, "0.6"), prefill_args=(PART, "0.3"))
    assert sizes(made) == {"decode-0": 42.39, "prefill-0": 18.49}


def test_a_part_that_is_no_number_is_left_for_vllm_to_refuse() -> None:
    made = together(engine_args=(PART, "half"))
    assert sizes(made) == {"decode-0": WHOLE, "prefill-0": WHOLE}
    assert made.unit("decode-0").argv[-2:] == (PART, "half")


# ---- what cannot be planned --------------------------------------------------------------------


def test_without_the_weights_the_size_cannot_be_worked_out() -> None:
    with pytest.raises(SpecError, match=r"the weights of Qwen/Qwen3-0\.6B are not here") as error:
        together(model_facts=UNKNOWN)
    assert "--start ordered" in error.value.hint
    assert SIZE in error.value.hint


def test_without_the_gpu_the_size_cannot_be_worked_out() -> None:
    with pytest.raises(SpecError, match="NVML does not list that GPU here") as error:
        together(0)
    assert "--start ordered" in error.value.hint


def test_too_little_room_is_an_error_before_any_start() -> None:
    with pytest.raises(SpecError, match="a 44% share of 80 GiB leaves decode-0 no room") as error:
        together(model_facts=HUGE)
    assert "60.0 GiB of weights" in error.value.message
    assert "a GPU of its own" in error.value.hint


def test_a_part_of_the_users_own_may_leave_too_little_room() -> None:
    with pytest.raises(SpecError, match="a 5% share of 80 GiB leaves prefill-0 no room"):
        together(prefill_args=(PART, "0.05"))


@pytest.mark.parametrize(("weights_gib", "fits"), [(30.79, True), (30.80, False)])
def test_a_quarter_of_a_gib_is_the_least(weights_gib: float, fits: bool) -> None:
    model = replace(HUB_MODEL, weights_gib=weights_gib)
    if fits:
        assert sizes(together(model_facts=model)) == {"decode-0": 0.25, "prefill-0": 0.25}
    else:
        with pytest.raises(SpecError, match="no room for a KV cache"):
            together(model_facts=model)
