"""From the plan that runs to another: what stays is the same byte for byte, what is new gets what is free."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from dynamoctl.checks import registry
from dynamoctl.config.choices import HostRole
from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.facts import HostFacts
from dynamoctl.planner import difference, make_plan, rescaling, topology
from dynamoctl.planner.difference import Difference, Step, held_ports
from dynamoctl.planner.plan import DeploymentPlan, Unit
from dynamoctl.planner.rescaling import Host, Running, Workers
from hypothesis import given, settings
from hypothesis import strategies as st

from .hosts import FOLDER_MODEL, HUB_MODEL, host, spec


def running(facts: HostFacts, **fields: Any) -> Running:
    """A deployment as `up` has started it on this host."""
    model = HUB_MODEL if facts.gpus else FOLDER_MODEL
    asked = spec(**fields)
    found = asked.model_copy(update={"device": topology.device(asked, facts), "model": model.path})
    return Running(found, make_plan(found, facts, model))


def on(facts: HostFacts, busy: tuple[int, ...] = ()) -> Host:
    return Host(facts, HUB_MODEL if facts.gpus else FOLDER_MODEL, busy)


def names(units: tuple[Unit, ...]) -> list[str]:
    return [unit.name for unit in units]


def kept(before: DeploymentPlan, after: DeploymentPlan) -> list[str]:
    """The units that are the same in both, whatever the order of a start would be."""
    then = {unit.name: replace(unit, after=()) for unit in before.units}
    return [unit.name for unit in after.units if then.get(unit.name) == replace(unit, after=())]


# ---- more and fewer workers ----------------------------------------------------------------------


DEPLOYMENTS: dict[str, tuple[HostFacts, dict[str, Any], HostRole]] = {
    "agg on a CPU": (host(), {"mode": "agg"}, "agg"),
    "disagg on a CPU": (host(), {"mode": "disagg"}, "decode"),
    "prefill on a CPU": (host(), {"mode": "disagg"}, "prefill"),
    "mockers": (host(), {"mode": "disagg", "engine": "mocker"}, "decode"),
    "agg on GPUs": (host(8), {"mode": "agg"}, "agg"),
    "decode on GPUs": (host(8), {"mode": "disagg"}, "decode"),
    "prefill on GPUs": (host(8), {"mode": "disagg", "gpus": "3,5"}, "prefill"),
    "two ranks each": (host(8), {"mode": "disagg", "tp": 2}, "decode"),
    "without LMCache": (host(8), {"mode": "agg", "lmcache": {"enabled": False}}, "agg"),
    "with a cache server": (host(8), {"mode": "agg", "lmcache": {"mode": "mp"}}, "agg"),
}


@pytest.mark.parametrize("what", DEPLOYMENTS)
def test_what_stays_is_the_same_and_what_is_new_has_places_of_its_own(what: str) -> None:
    facts, fields, role = DEPLOYMENTS[what]
    now = running(facts, **fields)
    more = rescaling.scale(now, on(facts), Workers(role, 2))
    found = difference.difference(now.plan, more.plan)
    assert (found.removed, found.changed) == ((), ())
    (new,) = found.added
    assert kept(now.plan, more.plan) == names(now.plan.units)
    assert new.role == role
    ports = list(held_ports(more.plan, more.spec.tp))
    assert len(ports) == len(set(ports))
    gpus = [gpu for unit in more.plan.units for gpu in unit.gpus]
    assert len(gpus) == len(set(gpus))
    assert len(new.gpus) == len(now.plan.workers[0].gpus)
    # A plan that is made anew for this spec has the same units, at other ports.
    again = make_plan(more.spec, facts, on(facts).model)
    assert names(again.units) == names(more.plan.units)
    assert [unit.gpus for unit in again.units] == [unit.gpus for unit in more.plan.units]


@pytest.mark.parametrize("what", DEPLOYMENTS)
def test_there_and_back_again_is_the_same_plan(what: str) -> None:
    facts, fields, role = DEPLOYMENTS[what]
    now = running(facts, **fields)
    more = rescaling.scale(now, on(facts), Workers(role, 3 if now.spec.tp == 1 else 2))
    back = rescaling.scale(more, on(facts), Workers(role, 1))
    assert back.plan == now.plan
    assert back.spec.model_copy(update={"gpus": ()}) == now.spec.model_copy(update={"gpus": ()})


def test_the_last_ones_go() -> None:
    now = running(host(), mode="disagg", engine="mocker", decode=3)
    fewer = rescaling.scale(now, on(host()), Workers("decode", 1))
    steps = difference.steps(now.plan, fewer.plan)
    assert [(step.action, step.name) for step in steps] == [("remove", "decode-2"), ("remove", "decode-1")]
    # Nothing waits for what has gone.
    assert all(set(unit.after) <= set(names(fewer.plan.units)) for unit in fewer.plan.units)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["decode", "prefill"]), st.integers(1, 4)), max_size=6))
def test_whatever_the_way_each_port_and_gpu_belongs_to_one(way: list[tuple[HostRole, int]]) -> None:
    facts = host(8)
    now = running(facts, mode="disagg", engine="vllm")
    for role, count in way:
        then = now
        now = rescaling.scale(now, on(facts), Workers(role, count))
        found = difference.difference(then.plan, now.plan)
        assert found.changed == ()
        ports = list(held_ports(now.plan, now.spec.tp))
        assert len(ports) == len(set(ports))
        assert sorted(now.spec.gpus) == sorted(set(now.spec.gpus))
    expected = {"decode": 1, "prefill": 1, **dict(way)}
    assert {role: count for role, count in now.spec.counts.items() if role != "agg"} == expected


def test_the_new_worker_takes_a_free_gpu() -> None:
    facts = host(4)
    now = running(facts, mode="disagg")
    more = rescaling.scale(now, on(facts, busy=(2,)), Workers("decode", 2))
    assert [unit.gpus for unit in more.plan.workers] == [(0,), (3,), (1,)]
    assert more.spec.gpus == ("0", "3", "1")
    with pytest.raises(PreflightError, match="2 more GPUs would be needed, and 1 of this host is free"):
        rescaling.scale(now, on(facts, busy=(2,)), Workers("decode", 3))


def test_gpus_for_the_new_ones_may_be_named() -> None:
    facts = host(4)
    now = running(facts, mode="agg")
    more = rescaling.scale(now, on(facts), Workers("agg", 2, ("0",)))
    old, new = more.plan.workers
    assert (old.gpus, new.gpus) == ((0,), (0,))
    # It shares the GPU, and takes its part of it.
    assert "--gpu-memory-utilization" in new.argv
    for named in (("1", "2"), ()):
        with pytest.raises(SpecError, match="--gpus names"):
            rescaling.scale(now, on(facts), Workers("agg", 2 if named else 1, named or ("1",)))
    with pytest.raises(SpecError, match="runs on the CPU"):
        rescaling.scale(running(host(), mode="agg"), on(host()), Workers("agg", 2, ("0",)))


def test_without_a_free_port_nothing_is_planned() -> None:
    facts = host()
    now = running(facts, mode="agg", engine="mocker")
    none = replace(facts, free_ports=tuple(held_ports(now.plan, 1)))
    with pytest.raises(PreflightError, match="no 1 free TCP ports"):
        rescaling.scale(now, on(none), Workers("agg", 2))


@pytest.mark.parametrize(
    ("word", "mode", "said"),
    [
        ("decode", "agg", "decode workers are not part of `up agg`"),
        ("worker", "disagg", "worker workers are not part of `up disagg`"),
        ("frontend", "agg", "'frontend' is not a role of workers"),
        ("prefil", "disagg", "'prefil' is not a role of workers"),
    ],
)
def test_a_role_that_the_mode_has_not(word: str, mode: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        rescaling.role_of(word, spec(mode=mode))
    assert refused.value.message.startswith(said)
    assert refused.value.hint


@pytest.mark.parametrize("what", DEPLOYMENTS)
def test_the_new_units_alone_can_be_checked(what: str) -> None:
    """Without the frontend and the cache server, which run already."""
    facts, fields, role = DEPLOYMENTS[what]
    now = running(facts, **fields)
    more = rescaling.scale(now, on(facts), Workers(role, 2)).plan
    new = rescaling.new_units(now.plan, more)
    assert names(new) == [f"{'worker' if role == 'agg' else role}-1"]
    registry.check_beside(replace(more, units=new), facts, on(facts).model)


# ---- other settings ------------------------------------------------------------------------------


def applied(now: Running, facts: HostFacts, only_workers: bool = False, **fields: Any) -> Difference:
    wanted = now.spec.model_copy(update=fields)
    return difference.difference(
        now.plan, rescaling.apply(now, on(facts), wanted, on(facts).model, only_workers).plan
    )


def changed(found: Difference) -> list[str]:
    return [old.name for old, _ in found.changed]


def test_only_what_a_setting_concerns_is_replaced() -> None:
    facts = host()
    now = running(facts, mode="disagg", engine="mocker", decode=2)
    assert not applied(now, facts)
    every = ["frontend", "decode-0", "decode-1", "prefill-0"]
    assert changed(applied(now, facts, env={"A": "1"})) == every
    assert changed(applied(now, facts, only_workers=True, env={"A": "1"})) == every[1:]
    assert changed(applied(now, facts, router_mode="random")) == ["frontend"]
    assert changed(applied(now, facts, decode_args=("--speedup-ratio", "2"))) == ["decode-0", "decode-1"]
    found = applied(now, facts, decode=1, prefill=2, prefill_args=("--speedup-ratio", "2"))
    assert (names(found.added), names(found.removed)) == (["prefill-1"], ["decode-1"])
    assert changed(found) == ["prefill-0"]


def test_what_the_host_has_by_now_is_not_a_change() -> None:
    facts = host(4)
    now = running(facts, mode="agg")
    later = replace(facts, memory_available_gib=3.0, cores=tuple(range(64)))
    assert not applied(now, later)


def test_a_replaced_unit_has_other_ports_and_a_restarted_one_the_same_ones() -> None:
    facts = host()
    now = running(facts, mode="agg", workers=2)
    wanted = now.spec.model_copy(update={"engine_args": ("--max-num-seqs", "4")})
    then = rescaling.apply(now, on(facts), wanted, FOLDER_MODEL)
    for old, new in difference.difference(now.plan, then.plan).changed:
        assert old.role == "agg"
        assert not set(old.ports.values()) & set(new.ports.values())
    # The cache server stays, and the new ones know where.
    assert then.plan.unit("lmcache") == now.plan.unit("lmcache")
    port = str(now.plan.unit("lmcache").ports["zmq"])
    assert all(port in str(unit.kv_transfer_config) for unit in then.plan.workers)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "disagg"},
        {"model": "Qwen/Qwen3-1.7B"},
        {"port": 8001},
        {"discovery": "etcd", "etcd_endpoints": ("http://127.0.0.1:2379",)},
        {"tp": 2},
    ],
)
def test_what_cannot_be_changed_is_refused_with_the_reason(fields: dict[str, Any]) -> None:
    facts = host(4)
    now = running(facts, mode="agg")
    with pytest.raises(
        SpecError, match=f"{next(iter(fields))} cannot be changed while 'default' is up: "
    ) as no:
        applied(now, facts, **fields)
    assert "dynamoctl down" in no.value.hint


# ---- steps ---------------------------------------------------------------------------------------


def test_new_processes_are_the_same_but_for_their_ports() -> None:
    facts = host(4)
    now = running(facts, mode="disagg")
    then = rescaling.renew(now, facts, ["decode-0", "frontend"])
    assert names(tuple(new for _, new in difference.difference(now.plan, then.plan).changed)) == ["decode-0"]
    old, new = now.plan.unit("decode-0"), then.plan.unit("decode-0")
    assert old.argv == new.argv
    assert {name for name in old.env if old.env[name] != new.env[name]} == {
        "DYN_SYSTEM_PORT",
        "VLLM_PORT",
        "VLLM_NIXL_SIDE_CHANNEL_PORT",
    }
    assert new.gate.port == new.ports["system"] == int(new.env["DYN_SYSTEM_PORT"])
    # As the planner itself makes it, where these ports are the free ones.
    ports = sorted(held_ports(replace(then.plan, units=(new,)), 1))
    again = make_plan(now.spec, replace(facts, free_ports=(*ports, *range(30000, 30100))), HUB_MODEL)
    assert again.unit("decode-0") == new


def test_a_change_goes_from_what_others_need_to_what_nobody_needs() -> None:
    facts = host()
    now = running(facts, mode="disagg", engine="mocker", decode=2, prefill=2)
    fields = {"env": {"A": "1"}, "decode": 1, "prefill": 3}
    then = rescaling.apply(now, on(facts), now.spec.model_copy(update=fields), FOLDER_MODEL)
    steps = difference.steps(now.plan, then.plan)
    assert [(step.action, step.name) for step in steps] == [
        ("replace", "prefill-0"),
        ("replace", "prefill-1"),
        ("replace", "decode-0"),
        ("renew", "frontend"),
        ("add", "prefill-2"),
        ("remove", "decode-1"),
    ]
    in_place = difference.steps(now.plan, now.plan, ["decode-1"])
    assert [(step.action, step.name) for step in in_place] == [("renew", "decode-1")]


def test_each_step_can_be_taken_back() -> None:
    now = running(host(), mode="agg", engine="mocker", workers=2).plan
    one, other = now.workers
    there = (Step("add", None, one), Step("replace", one, other), Step("renew", one, other))
    for step in (*there, Step("remove", one, None)):
        assert step.undone.undone == step
        assert (step.undone.old, step.undone.new) == (step.new, step.old)
    actions = [step.undone.action for step in (*there, Step("remove", one, None))]
    assert actions == ["remove", "replace", "renew", "add"]


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(4)), st.integers(0, 3))
def test_steps_lead_from_one_plan_to_the_other(order: list[int], count: int) -> None:
    """Whatever is taken away and added: doing the steps gives the units of the other plan."""
    every = running(host(8), mode="disagg", engine="mocker", decode=2, prefill=2).plan.units
    workers = [unit for unit in every if unit.is_worker]
    old = replace_units(every, [workers[i] for i in order[:count]])
    new = replace_units(every, [workers[i] for i in order[1:]])
    units = {unit.name: unit for unit in old.units}
    for step in difference.steps(old, new):
        if step.new is None:
            del units[step.name]
        else:
            units[step.name] = step.new
    assert units == {unit.name: unit for unit in new.units}


def replace_units(every: tuple[Unit, ...], workers: list[Unit]) -> DeploymentPlan:
    plan = running(host(8), mode="disagg", engine="mocker", decode=2, prefill=2).plan
    return replace(
        plan, units=tuple(itertools.chain((unit for unit in every if not unit.is_worker), workers))
    )
