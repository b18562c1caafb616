"""One deployment over several hosts: what may be asked for, and what each host's plan says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from dynamoctl.config.load import load_spec
from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.planner.printed import render
from pydantic import ValidationError

from tests.unit.hosts import ETCD, plan

ETCD_HERE: dict[str, Any] = {"discovery": "etcd", "etcd_endpoints": ETCD}


def part(roles: str, gpus: int = 0, /, **more: Any) -> DeploymentPlan:
    """What one host plans for its part of a disaggregated deployment."""
    return plan(gpus, **{"mode": "disagg", **ETCD_HERE, "roles": roles, "advertise": "eth0", **more})


def values(made: DeploymentPlan, variable: str) -> set[str | None]:
    return {unit.env.get(variable) for unit in made.units}


# ---- what may be asked for ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"discovery": "etcd"}, "etcd_endpoints: no endpoint given: add --etcd-endpoints"),
        ({"etcd_endpoints": ETCD}, "--etcd-endpoints: discovery in a folder of this host needs none"),
        ({"advertise": "eth0"}, "--advertise: discovery in a folder of this host needs none"),
        ({"roles": "prefill", "mode": "disagg"}, "--roles: frontend and decode on another host"),
        ({**ETCD_HERE, "roles": "agg"}, "advertise: other hosts must reach this one"),
        ({"roles": "decode"}, "--roles: `up agg` has no decode: choose from frontend, agg"),
        ({"roles": "agg", "mode": "disagg"}, "--roles: `up disagg` has no agg: choose from frontend"),
        ({"roles": "router"}, "--roles: 'router' is not a role: choose from frontend, agg, decode, prefill"),
        ({"roles": " "}, "--roles: no role given"),
        ({"discovery": "etcd", "etcd_endpoints": "10.0.0.1:2379"}, "--etcd-endpoints: '10.0.0.1:2379' is"),
        ({"discovery": "etcd", "etcd_endpoints": "http://10.0.0.1"}, "--etcd-endpoints: 'http://10.0.0.1'"),
        ({"discovery": "etcd", "etcd_endpoints": "http://me:pw@a:2379"}, "--etcd-endpoints: an etcd URL"),
        ({"discovery": "zookeeper"}, "--discovery: 'zookeeper' is not one of"),
    ],
)  # fmt: skip
def test_what_makes_no_deployment(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        load_spec(flags, {})
    assert caught.value.exit_code == 2
    assert "pw" not in caught.value.message + caught.value.hint


def test_all_roles_are_no_split() -> None:
    """Named or not: with a folder, on the loopback."""
    made = load_spec({"mode": "disagg", "roles": "prefill, decode,frontend"}, {})
    assert (made.here, made.elsewhere) == (("frontend", "decode", "prefill"), ())


def test_endpoints_come_from_the_environment_only_where_etcd_is_asked_for() -> None:
    environ = {"ETCD_ENDPOINTS": "http://a:2379,http://b:2379/"}
    assert load_spec({"discovery": "etcd"}, environ).etcd_endpoints == ("http://a:2379", "http://b:2379")
    assert load_spec({"discovery": "etcd", "etcd_endpoints": ETCD}, environ).etcd_endpoints == (ETCD,)
    assert load_spec({}, environ).etcd_endpoints == ()


def test_one_file_serves_all_hosts() -> None:
    """What it says of roles that are elsewhere is theirs; GPUs are counted for the roles that are here."""
    made = part("prefill", 2, decode=4, prefill=2, gpus="0,1")
    assert [unit.name for unit in made.workers] == ["prefill-0", "prefill-1"]
    with pytest.raises(
        ValidationError, match=r"gpus: 1 named, but 2 prefill with tensor parallelism 1 take 2"
    ):
        part("prefill", 2, decode=4, prefill=2, gpus="0")


@pytest.mark.parametrize("wanted", ["eth7", "10.0.0.2", "::1"])
def test_an_address_must_be_this_hosts(wanted: str) -> None:
    with pytest.raises(PreflightError, match=f"advertise: {wanted} is neither") as caught:
        part("prefill", advertise=wanted)
    assert "127.0.0.1 (lo), 10.0.0.1 (eth0), 10.0.0.7 (eth0:dyn), 10.1.0.1 (ib0)" in caught.value.hint


# ---- the plan -------------------------------------------------------------------------------


def test_each_host_plans_its_own_units_and_waits_for_no_other_hosts() -> None:
    first, second = part("frontend,decode"), part("prefill")
    assert [unit.name for unit in first.units] == ["frontend", "decode-0"]
    assert [unit.name for unit in second.units] == ["lmcache", "prefill-0"]
    for made in (first, second):
        names = {unit.name for unit in made.units}
        assert all(set(unit.after) <= names for unit in made.units)
    assert (first.elsewhere, second.elsewhere) == (("prefill",), ("frontend", "decode"))


def test_lmcache_is_with_those_who_compute_prompts() -> None:
    assert part("frontend,decode").lmcache is None
    assert part("prefill").lmcache == "mp"
    assert part("prefill", 1).lmcache == "inproc"
    assert part("frontend", 1).lmcache is None


def test_connectors_are_those_of_the_whole() -> None:
    """The two sides must fit together, also where LMCache is on the other host alone."""
    decode, prefill = part("decode", 1).unit("decode-0"), part("prefill", 1).unit("prefill-0")
    assert decode.kv_transfer_config == {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    assert prefill.kv_transfer_config is not None
    assert prefill.kv_transfer_config["kv_connector"] == "MultiConnector"
    assert all("--disable-hybrid-kv-cache-manager" in unit.argv for unit in (decode, prefill))


@pytest.mark.parametrize("variable", ["PYTHONHASHSEED", "DYN_NAMESPACE", "ETCD_ENDPOINTS"])
def test_what_must_be_the_same_on_all_hosts(variable: str) -> None:
    (one,) = values(part("frontend,decode"), variable)
    assert values(part("prefill"), variable) == {one} != {None}


def test_discovery_is_in_etcd_without_nats() -> None:
    made = part("prefill")
    assert values(made, "DYN_DISCOVERY_BACKEND") == {"etcd"}
    assert values(made, "DYN_FILE_KV") == {None}
    assert (values(made, "DYN_REQUEST_PLANE"), values(made, "DYN_EVENT_PLANE")) == ({"tcp"}, {"zmq"})


@pytest.mark.parametrize(
    ("advertise", "host", "interface"),
    [
        pytest.param("eth0", "10.0.0.1", None, id="the-way-out-which-Dynamo-takes-by-itself"),
        pytest.param("eth0:dyn", "10.0.0.7", "eth0:dyn", id="an-address-with-a-label"),
        pytest.param("10.1.0.1", "10.1.0.1", "ib0", id="an-interface-with-one-address"),
    ],
)
def test_others_reach_what_is_here_at_the_address_that_is_named(
    advertise: str, host: str, interface: str | None
) -> None:
    made = part("frontend,prefill", advertise=advertise)
    assert values(made, "DYN_TCP_RPC_HOST") == {host} == {made.address}
    assert values(made, "DYN_TCP_RESPONSE_STREAM_HOST") == {interface}
    assert made.unit("prefill-0").env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == host


def test_a_frontend_must_take_answers_where_it_is_reached() -> None:
    """Dynamo can be told an interface, of which it takes the last address, be it an IPv6 one."""
    with pytest.raises(PreflightError, match=r"answers at 10\.0\.0\.1, not at 10\.0\.0\.9") as caught:
        part("frontend,prefill", advertise="10.0.0.9")
    assert "ip address add 10.0.0.9/32 dev eth0 label eth0:dyn" in caught.value.hint
    assert part("prefill", advertise="10.0.0.9").address == "10.0.0.9"


def test_what_no_other_host_needs_stays_on_the_loopback() -> None:
    for made in (part("frontend,decode"), part("prefill"), part("prefill", 2, tp=2)):
        assert values(made, "DYN_SYSTEM_HOST") == {"127.0.0.1"}
        assert {unit.gate.host for unit in made.units} == {"127.0.0.1"}
        assert values(made, "GLOO_SOCKET_IFNAME") <= {"lo", None}
        assert values(made, "NCCL_SOCKET_IFNAME") <= {"lo", None}


def test_a_mocker_hands_its_tokenizer_to_a_frontend_on_another_host() -> None:
    made = part("prefill", engine="mocker")
    assert values(made, "DYN_SYSTEM_HOST") == {"10.0.0.1"} == {made.unit("prefill-0").gate.host}


def test_ucx_uses_the_interface_and_the_rdma_card_behind_it() -> None:
    assert part("prefill", 1, advertise="eth0").unit("prefill-0").env["UCX_NET_DEVICES"] == "eth0"
    assert part("prefill", 1, advertise="eth0:dyn").unit("prefill-0").env["UCX_NET_DEVICES"] == "eth0"
    assert part("prefill", 1, advertise="ib0").unit("prefill-0").env["UCX_NET_DEVICES"] == "mlx5_0:1,ib0"


def test_ucx_goes_by_tcp_between_cpu_workers_on_two_hosts() -> None:
    assert part("prefill").unit("prefill-0").env["UCX_TLS"] == "tcp"
    assert "UCX_TLS" not in part("prefill", 1).unit("prefill-0").env
    together = part("decode,prefill")
    assert {unit.env.get("UCX_TLS") for unit in together.workers} == {None}


def test_on_one_host_etcd_changes_no_address() -> None:
    made = plan(mode="disagg", **ETCD_HERE)
    assert values(made, "DYN_TCP_RPC_HOST") == {"127.0.0.1"}
    assert values(made, "DYN_DISCOVERY_BACKEND") == {"etcd"}


def test_a_plan_without_a_frontend_has_no_endpoint() -> None:
    made = part("prefill")
    assert (made.endpoint, made.as_json()["endpoint"]) == ("", "")
    assert DeploymentPlan.from_json(made.as_json()) == made
    shown = render(made)
    assert "endpoint  the frontend's, on another host" in shown
    assert "reached at 10.0.0.1; frontend and decode on other hosts" in shown
