"""The decision table of the design: role x LMCache x mode x device -> KV transfer config."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.planner import connectors
from dynamoctl.planner.connectors import CacheMode, Device
from dynamoctl.planner.plan import Role, Unit

from tests.unit.hosts import VERSIONS, plan

INPROC = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
MP = {
    "kv_connector": "LMCacheMPConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {
        "lmcache.mp.host": "tcp://127.0.0.1",
        "lmcache.mp.port": 5555,
        "lmcache.mp.mq_timeout": 15.0,
        "lmcache.mp.heartbeat_interval": 3.0,
    },
}
NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
NIXL_CPU = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}


# What a cache server does not bring is computed again; in process vLLM would compute it wrongly.
AGAIN = {"kv_load_failure_policy": "recompute"}


def multi(*inner: dict[str, Any]) -> dict[str, Any]:
    return {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": list(inner)},
    }


DECISIONS: list[tuple[Role, CacheMode | None, Device, dict[str, Any]]] = [
    ("agg", None, "cuda", NIXL),
    ("agg", None, "cpu", NIXL_CPU),
    ("agg", "inproc", "cuda", INPROC),
    ("agg", "inproc", "cpu", INPROC),
    ("agg", "mp", "cuda", MP | AGAIN),
    ("agg", "mp", "cpu", MP | AGAIN),
    ("decode", None, "cuda", NIXL),
    ("decode", None, "cpu", NIXL_CPU),
    ("decode", "inproc", "cuda", NIXL),
    ("decode", "inproc", "cpu", NIXL_CPU),
    ("decode", "mp", "cuda", NIXL),
    ("decode", "mp", "cpu", NIXL_CPU),
    ("prefill", None, "cuda", NIXL),
    ("prefill", None, "cpu", NIXL_CPU),
    ("prefill", "inproc", "cuda", multi(INPROC, NIXL)),
    ("prefill", "inproc", "cpu", multi(INPROC, NIXL_CPU)),
    ("prefill", "mp", "cuda", multi(MP, NIXL) | AGAIN),
    ("prefill", "mp", "cpu", multi(MP, NIXL_CPU) | AGAIN),
]


def flag_value(unit: Unit, flag: str) -> str:
    return unit.argv[unit.argv.index(flag) + 1]


@pytest.mark.parametrize(("role", "cache", "device", "expected"), DECISIONS)
def test_decision_table(
    role: Role, cache: CacheMode | None, device: Device, expected: dict[str, Any]
) -> None:
    assert connectors.kv_transfer_config(role, cache, device, 5555) == expected


@pytest.mark.parametrize("mode", ["inproc", "mp"])
def test_the_worker_is_given_the_config_that_the_plan_shows(mode: str) -> None:
    for unit in plan(2, mode="disagg", lmcache={"mode": mode}).workers:
        assert json.loads(flag_value(unit, "--kv-transfer-config")) == unit.kv_transfer_config


def test_the_cache_server_is_where_the_connector_looks_for_it() -> None:
    made = plan(mode="disagg")
    server, config = made.unit("lmcache"), made.unit("prefill-0").kv_transfer_config
    assert config is not None
    extra = config["kv_connector_extra_config"]["connectors"][0]["kv_connector_extra_config"]
    assert (extra["lmcache.mp.host"], extra["lmcache.mp.port"]) == (
        "tcp://127.0.0.1",
        server.ports["zmq"],
    )
    assert flag_value(server, "--port") == str(server.ports["zmq"])


@pytest.mark.parametrize(("gpus", "mode"), [(0, "mp"), (1, "inproc")])
def test_auto_mode_follows_the_device(gpus: int, mode: str) -> None:
    assert plan(gpus).lmcache == mode


def test_in_process_on_a_cpu_is_refused_because_it_would_serve_without_a_cache() -> None:
    with pytest.raises(SpecError) as error:
        plan(lmcache={"mode": "inproc"})
    assert "does not work on a CPU" in error.value.message
    assert "--lmcache-mode mp" in error.value.hint


@pytest.mark.parametrize("mode", ["agg", "disagg"])
def test_in_process_is_refused_with_versions_with_which_it_gave_back_wrong_values(mode: str) -> None:
    with pytest.raises(SpecError, match=r"with vllm 0\.31\.0 and lmcache 0\.5\.6: answers would be") as error:
        plan(2, mode=mode, versions=VERSIONS, lmcache={"mode": "inproc"})
    assert "--lmcache-mode mp" in error.value.hint
    assert plan(2, mode=mode, versions=VERSIONS).lmcache == "mp"
    untried = {**VERSIONS, "lmcache": "0.5.7"}
    assert plan(2, mode=mode, versions=untried, lmcache={"mode": "inproc"}).lmcache == "inproc"


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("enabled", [True, False])
def test_hybrid_cache_manager_is_off_on_both_sides_of_a_transfer(gpus: int, enabled: bool) -> None:
    for unit in plan(gpus, mode="disagg", lmcache={"enabled": enabled}).workers:
        assert unit.argv.count("--disable-hybrid-kv-cache-manager") == 1


def test_hybrid_cache_manager_is_left_alone_on_an_aggregated_worker() -> None:
    assert "--disable-hybrid-kv-cache-manager" not in plan(1).unit("worker-0").argv


def test_every_worker_with_nixl_has_a_side_channel_of_its_own() -> None:
    workers = plan(4, mode="disagg", decode=2, prefill=2).workers
    for unit in workers:
        assert unit.env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "127.0.0.1"
        assert unit.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == str(unit.ports["nixl"])
    assert len({unit.ports["nixl"] for unit in workers}) == 4


def test_side_channels_of_ranks_do_not_overlap() -> None:
    """A rank listens at the base port plus its number."""
    bases = [unit.ports["nixl"] for unit in plan(8, mode="disagg", decode=2, prefill=2, tp=2).workers]
    taken = [base + rank for base in bases for rank in range(2)]
    assert len(set(taken)) == 8


def test_a_worker_without_nixl_has_no_side_channel() -> None:
    unit = plan(1).unit("worker-0")
    assert "nixl" not in unit.ports
    assert "VLLM_NIXL_SIDE_CHANNEL_PORT" not in unit.env
