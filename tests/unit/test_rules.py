"""Every rule that makes the stack's parts fit together, with its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
from dynamoctl.config.choices import RouterMode
from dynamoctl.errors import SpecError
from dynamoctl.planner import make_plan
from dynamoctl.planner.plan import DeploymentPlan, Unit
from dynamoctl.planner.printed import render
from dynamoctl.planner.rules import RULES
from dynamoctl.planner.secrets import redact

from tests.unit.fresh import last_line
from tests.unit.hosts import FOLDER_MODEL, HOME, HUB_MODEL, VERSIONS, host, plan, spec, uuid

SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "agg-cpu": (0, {}),
    "agg-gpu": (1, {}),
    "disagg-cpu": (0, {"mode": "disagg"}),
    "disagg-gpu": (2, {"mode": "disagg"}),
    "disagg-mocker": (0, {"mode": "disagg", "engine": "mocker"}),
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> DeploymentPlan:
    gpus, fields = SHAPES[request.param]
    return plan(gpus, **fields)


def values(made: DeploymentPlan, variable: str) -> set[str | None]:
    return {unit.env.get(variable) for unit in made.units}


def flag(unit: Unit, name: str) -> str | None:
    return unit.argv[unit.argv.index(name) + 1] if name in unit.argv else None


# ---- every unit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable",
    [
        pytest.param("DYN_CONNECTOR", id="DYN_CONNECTOR-is-an-error-for-dynamo.vllm"),
        pytest.param("ENABLE_LMCACHE", id="ENABLE_LMCACHE-has-become-the-plan"),
        pytest.param("PROMETHEUS_MULTIPROC_DIR", id="PROMETHEUS_MULTIPROC_DIR-is-made-by-dynamo"),
        pytest.param("PYTHONDONTWRITEBYTECODE", id="PYTHONDONTWRITEBYTECODE-compiles-at-every-start"),
    ],
)
def test_variables_that_no_unit_may_see(shape: DeploymentPlan, variable: str) -> None:
    assert all(variable in unit.unset for unit in shape.units)
    assert values(shape, variable) == {None}


def test_no_unit_takes_away_what_it_sets(shape: DeploymentPlan) -> None:
    """systemd takes variables away last: the order must not matter."""
    for unit in shape.units:
        assert not set(unit.unset) & set(unit.env)


def test_hash_seed_is_the_same_everywhere_or_nothing_hits_across_workers(shape: DeploymentPlan) -> None:
    assert values(shape, "PYTHONHASHSEED") == {"0"}


def test_discovery_is_a_store_of_the_deployments_own(shape: DeploymentPlan) -> None:
    """The default backend is etcd; the default folder would be shared with every other deployment."""
    assert values(shape, "DYN_DISCOVERY_BACKEND") == {"file"}
    assert values(shape, "DYN_FILE_KV") == {f"{HOME}/store"} == {shape.store}


def test_no_nats_is_needed(shape: DeploymentPlan) -> None:
    assert values(shape, "DYN_REQUEST_PLANE") == {"tcp"}
    assert values(shape, "DYN_EVENT_PLANE") == {"zmq"}


@pytest.mark.parametrize("variable", ["DYN_TCP_RPC_HOST", "DYN_SYSTEM_HOST"])
def test_dynamos_listeners_stay_on_the_loopback(shape: DeploymentPlan, variable: str) -> None:
    assert values(shape, variable) == {"127.0.0.1"}


def test_the_response_stream_stays_on_the_loopback_and_is_named_by_interface(
    shape: DeploymentPlan,
) -> None:
    assert values(shape, "DYN_TCP_RESPONSE_STREAM_HOST") == {"lo"}


def test_the_frontend_listens_on_the_loopback_unless_told_otherwise() -> None:
    assert flag(plan().unit("frontend"), "--http-host") == "127.0.0.1"
    assert flag(plan(host="0.0.0.0").unit("frontend"), "--http-host") == "0.0.0.0"


def test_the_cache_server_listens_on_the_loopback() -> None:
    server = plan(host="0.0.0.0").unit("lmcache")
    assert flag(server, "--host") == flag(server, "--http-host") == "127.0.0.1"


def test_process_titles_must_not_wipe_the_environment_by_which_leftovers_are_known(
    shape: DeploymentPlan,
) -> None:
    assert values(shape, "SPT_NOENV") == {"1"}


def test_dynamo_leaves_no_temporary_file_of_sglangs_behind(shape: DeploymentPlan) -> None:
    assert values(shape, "DYN_SKIP_SGLANG_LOG_FORMATTING") == {"1"}


def test_usage_reports_are_off_and_only_the_exact_word_false_turns_them_off(
    shape: DeploymentPlan,
) -> None:
    assert values(shape, "LMCACHE_TRACK_USAGE") == {"false"}


def test_the_hub_is_not_asked_for_a_model_that_is_a_folder() -> None:
    assert values(plan(model_facts=FOLDER_MODEL), "HF_HUB_OFFLINE") == {"1"}
    assert values(plan(model_facts=HUB_MODEL), "HF_HUB_OFFLINE") == {None}


def test_deployments_side_by_side_have_namespaces_of_their_own() -> None:
    made = plan(name="qwen-prod")
    assert values(made, "DYN_NAMESPACE") == {"dynamoctl-qwen-prod"}
    assert flag(made.unit("frontend"), "--namespace") == "dynamoctl-qwen-prod"


def test_the_users_environment_wins_over_the_rules_but_for_those_on_which_the_plan_stands(
    shape: DeploymentPlan,
) -> None:
    owned = {rule.sets for rule in RULES if rule.instead}
    given = {name for unit in shape.units for name in unit.env if not name.startswith("LMCACHE_")}
    names = sorted(given - owned)
    assert {"PYTHONHASHSEED", "DYN_SYSTEM_HOST"} <= set(names)
    mine = dict.fromkeys(names, "mine")
    gpus = 2 if shape.device == "cuda" else 0
    for unit in plan(gpus, mode=shape.mode, engine=shape.engine, env=mine).units:
        assert {name: unit.env[name] for name in names} == mine


def test_the_users_environment_wins_over_the_caches_own_settings() -> None:
    made = plan(env={"LMCACHE_LOG_LEVEL": "DEBUG"}, lmcache={"env": {"LMCACHE_LOG_LEVEL": "INFO"}})
    assert values(made, "LMCACHE_LOG_LEVEL") == {"DEBUG"}


# ---- workers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NCCL_NVLS_ENABLE", "0"), ("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1"), ("NVSHMEM_DISABLE_NVLS", "1")],
)
def test_nvlink_multicast_is_as_the_caller_has_it_unless_it_is_switched_off(
    variable: str, value: str
) -> None:
    """It takes memory of the whole NVLink fabric, and tensor parallelism is faster with it."""
    shape: dict[str, Any] = {"mode": "disagg", "decode": 2, "prefill": 2, "tp": 2}
    made = plan(8, **shape)
    assert values(made, variable) == {None}
    assert all(variable not in unit.unset for unit in made.units)
    made = plan(8, **shape, nvlink_multicast=False)
    assert {worker.env.get(variable) for worker in made.workers} == {value}
    assert values(plan(0, nvlink_multicast=False), variable) == {None}
    own = plan(1, nvlink_multicast=False, env={variable: "mine"})
    assert own.unit("worker-0").env[variable] == "mine"


def test_each_worker_has_a_status_server_and_its_gate_asks_it(shape: DeploymentPlan) -> None:
    """The server is off without DYN_SYSTEM_PORT, and crashes above 32767."""
    for unit in shape.workers:
        assert unit.env["DYN_SYSTEM_PORT"] == str(unit.ports["system"])
        assert unit.gate.port == unit.ports["system"] <= 32767


def test_nobody_but_workers_has_a_status_server(shape: DeploymentPlan) -> None:
    """A DYN_SYSTEM_PORT of the caller's would be taken by the frontend, before any worker."""
    for unit in shape.units:
        assert ("DYN_SYSTEM_PORT" in unit.unset) is not unit.is_worker


def test_each_engine_looks_for_ports_of_its_own_at_a_place_of_its_own() -> None:
    """Two that started together took the same free port, and one could not bind it."""
    workers = plan(4, mode="disagg", decode=2, prefill=2).workers
    for unit in workers:
        assert unit.env["VLLM_PORT"] == str(unit.ports["engine"])
    first = sorted(unit.ports["engine"] for unit in workers)
    assert all(later - earlier >= 4 for earlier, later in pairwise(first))


def test_each_worker_is_told_its_mode() -> None:
    """Without one a decode worker registers as aggregated, and the model is never ready."""
    for gpus, mode in ((1, "agg"), (2, "disagg")):
        for unit in plan(gpus, mode=mode).workers:
            assert flag(unit, "--disaggregation-mode") == unit.role


def test_a_mocker_that_is_aggregated_gets_no_mode() -> None:
    assert flag(plan(engine="mocker").unit("worker-0"), "--disaggregation-mode") is None


def test_a_mockers_gate_asks_its_endpoint_because_its_health_never_says_ready() -> None:
    assert {unit.gate.kind for unit in plan(engine="mocker").workers} == {"endpoint"}
    assert {unit.gate.kind for unit in plan().units} == {"http"}


def test_a_mocker_has_no_cache() -> None:
    made = plan(engine="mocker")
    assert made.lmcache is None
    assert [unit.name for unit in made.units] == ["frontend", "worker-0"]


def test_requests_in_flight_have_a_limit_when_a_worker_stops() -> None:
    unit = plan(drain_s=7.5).unit("worker-0")
    assert unit.env["DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS"] == "7.5"
    assert unit.env["DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS"] == "0"


def test_the_kv_router_hears_each_worker_at_a_socket_of_its_own_that_nobody_else_may_read() -> None:
    """KV events are off in vLLM unless they are configured. The socket is in the unit's working folder."""
    for unit in plan(4, mode="disagg", decode=2, prefill=2, router_mode="kv").workers:
        assert json.loads(flag(unit, "--kv-events-config") or "") == {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": "ipc://kv-events",
        }
        assert "kv_events" not in unit.ports


def test_other_routers_need_no_kv_events() -> None:
    unit = plan(1).unit("worker-0")
    assert flag(unit, "--kv-events-config") is None


@pytest.mark.packages
def test_the_installed_frontend_takes_each_router_mode() -> None:
    script = """
import argparse
from dynamo.common.configuration.groups.router_args import RouterArgGroup
parser = argparse.ArgumentParser()
try:
    group = RouterArgGroup(default_router_mode=None, include_frontend_only=True)
except TypeError:  # Dynamo 1.4
    group = RouterArgGroup()
group.add_arguments(parser)
(mode,) = [one for one in parser._actions if "--router-mode" in one.option_strings]
print(sorted(mode.choices))
"""
    assert last_line(script) == str(sorted(get_args(RouterMode)))


def test_gpus_are_counted_as_nvml_counts_them() -> None:
    """CUDA's own order is by speed."""
    assert plan(1).unit("worker-0").env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize(("builds", "value"), [(True, None), (False, "0")])
def test_where_flashinfer_cannot_build_its_sampler_vllm_takes_its_own(
    builds: bool, value: str | None
) -> None:
    for gpus in (1, 0):
        worker = plan(gpus, builds_kernels=builds).unit("worker-0")
        assert worker.env.get("VLLM_USE_FLASHINFER_SAMPLER") == (value if gpus else None)


def test_a_cpu_worker_sees_no_gpu_because_torchs_cuda_build_would_take_it() -> None:
    assert plan(1, device="cpu").unit("worker-0").env["CUDA_VISIBLE_DEVICES"] == ""


def test_the_cpu_profile() -> None:
    unit = plan().unit("worker-0")
    assert "--enforce-eager" in unit.argv
    assert flag(unit, "--max-num-batched-tokens") == "512"
    assert unit.env["TORCHDYNAMO_DISABLE"] == "1"


def test_the_built_in_model_is_served_in_float32_on_a_cpu_because_bfloat16_turns_its_answers_round() -> None:
    """Its KV cache is as wide, and the user's own wish wins."""
    config = {"num_hidden_layers": 30, "num_key_value_heads": 3, "head_dim": 64, "dtype": "bfloat16"}
    built_in = replace(FOLDER_MODEL, config=config)
    assert flag(plan().unit("worker-0"), "--dtype") == "float32"
    assert flag(plan(1).unit("worker-0"), "--dtype") is None
    assert flag(plan(model_facts=replace(built_in, builtin=False)).unit("worker-0"), "--dtype") is None
    wish = ("--dtype", "bfloat16")
    assert plan(engine_args=wish).unit("worker-0").argv[-2:] == wish
    bytes_of_a_token = 2 * 30 * 3 * 64 * 4
    size: dict[str, Any] = {"lmcache": {"cpu_gb": 1.0}}
    assert plan(model_facts=built_in, **size).lmcache_tokens == 1024**3 // bytes_of_a_token
    assert (
        plan(model_facts=built_in, engine_args=wish, **size).lmcache_tokens == 2 * 1024**3 // bytes_of_a_token
    )


def test_the_users_arguments_come_last_so_that_they_win() -> None:
    made = plan(
        mode="disagg",
        engine_args=("--max-model-len", "512"),
        decode_args=("--seed", "1"),
        prefill_args=("--seed", "2"),
    )
    assert made.unit("decode-0").argv[-4:] == ("--max-model-len", "512", "--seed", "1")
    assert made.unit("prefill-0").argv[-4:] == ("--max-model-len", "512", "--seed", "2")


def test_between_vllms_of_their_own_a_requests_kv_cache_is_moved_and_the_mocker_only_pretends() -> None:
    moves = [name for name, (gpus, fields) in SHAPES.items() if plan(gpus, **fields).moves_kv_cache]
    assert moves == ["disagg-cpu", "disagg-gpu"]


# ---- LMCache --------------------------------------------------------------------------------


def test_upstreams_settings_in_process() -> None:
    env = plan(1).unit("worker-0").env
    settings = ("LMCACHE_CHUNK_SIZE", "LMCACHE_LOCAL_CPU", "LMCACHE_MAX_LOCAL_CPU_SIZE")
    assert [env[name] for name in settings] == ["256", "True", "20"]


def test_the_users_settings_of_lmcache_win() -> None:
    made = plan(1, lmcache={"env": {"LMCACHE_LOCAL_CPU": "False", "LMCACHE_CACHE_POLICY": "LFU"}})
    env = made.unit("worker-0").env
    assert (env["LMCACHE_LOCAL_CPU"], env["LMCACHE_CACHE_POLICY"]) == ("False", "LFU")


def test_a_decode_worker_has_no_cache_of_lmcaches() -> None:
    assert "LMCACHE_CHUNK_SIZE" not in plan(2, mode="disagg").unit("decode-0").env


def test_without_lmcache_nothing_is_told_to_it() -> None:
    made = plan(1, lmcache={"enabled": False})
    assert "LMCACHE_CHUNK_SIZE" not in made.unit("worker-0").env
    assert (made.lmcache, made.lmcache_cpu_gib) == (None, 0.0)


@pytest.mark.parametrize(
    ("fields", "gib"),
    [
        ({"workers": 2, "tp": 2}, 80.0),
        ({"mode": "disagg", "decode": 2, "prefill": 1, "tp": 2}, 40.0),
        ({"workers": 2, "lmcache": {"mode": "mp", "cpu_gb": 30}}, 30.0),
        ({"workers": 2, "lmcache": {"cpu_gb": 1.5}}, 3.0),
    ],
)
def test_memory_of_the_cache_is_counted_for_each_caching_rank_or_for_the_server(
    fields: dict[str, Any], gib: float
) -> None:
    assert plan(8, **fields).lmcache_cpu_gib == gib


@pytest.mark.parametrize(
    ("available", "fields", "gib"),
    [
        (200.0, {}, 20.0),
        (30.0, {}, 15.0),
        (30.0, {"workers": 2}, 14.0),
        (30.0, {"lmcache": {"mode": "mp"}}, 15.0),
        (1.5, {}, 1.0),
        (30.0, {"lmcache": {"cpu_gb": 28}}, 28.0),
    ],
)
def test_a_default_takes_at_most_half_of_what_is_available_and_what_is_asked_for_is_taken(
    available: float, fields: dict[str, Any], gib: float
) -> None:
    """In process it is pinned at the start, for each caching rank."""
    facts = replace(host(2), memory_available_gib=available)
    assert make_plan(spec(**fields), facts, HUB_MODEL).lmcache_cpu_gib == gib


def test_the_servers_settings() -> None:
    server = plan(lmcache={"chunk_size": 128, "cpu_gb": 2.5}).unit("lmcache")
    assert flag(server, "--chunk-size") == "128"
    assert flag(server, "--l1-size-gb") == "2.5"
    assert flag(server, "--eviction-policy") == "LRU"


def test_a_chunk_of_the_servers_is_whole_blocks_of_vllms_or_the_worker_ends() -> None:
    with pytest.raises(SpecError, match="200 is not a multiple of 128") as error:
        plan(lmcache={"chunk_size": 200})
    assert "take 256" in error.value.hint
    assert plan(1, lmcache={"chunk_size": 200}).lmcache == "inproc"
    own_block_size = plan(lmcache={"chunk_size": 200}, engine_args=("--block-size", "8"))
    assert flag(own_block_size.unit("lmcache"), "--chunk-size") == "200"


@pytest.mark.parametrize(("asked", "policy"), [("lru", "LRU"), ("IsolatedLRU", "IsolatedLRU")])
def test_a_policy_that_the_server_knows_is_handed_on(asked: str, policy: str) -> None:
    server = plan(lmcache={"env": {"LMCACHE_CACHE_POLICY": asked}}).unit("lmcache")
    assert flag(server, "--eviction-policy") == policy


def test_a_policy_that_the_server_does_not_know_would_end_it() -> None:
    with pytest.raises(SpecError, match="LRU, ARC, IsolatedLRU, noop"):
        plan(lmcache={"env": {"LMCACHE_CACHE_POLICY": "LFU"}})


# ---- the order ------------------------------------------------------------------------------


def test_prefill_waits_for_every_decode_worker() -> None:
    made = plan(4, mode="disagg", decode=2, prefill=2)
    assert made.unit("decode-1").after == ("frontend",)
    assert made.unit("prefill-1").after == ("frontend", "decode-0", "decode-1")


def test_workers_wait_for_the_cache_server() -> None:
    """A worker that starts before it blocks for up to 300 s."""
    assert all("lmcache" in unit.after for unit in plan(mode="disagg").workers)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"workers": 2, "gpus": "0,0"}, id="by-index"),
        pytest.param({"workers": 2, "gpus": ["0", uuid(0)]}, id="once-by-index-and-once-by-uuid"),
        pytest.param({"workers": 2, "gpus": ["0", uuid(0)[:12]]}, id="by-the-beginning-of-its-uuid"),
        pytest.param({"workers": 2, "tp": 2, "gpus": "0,1,1,2"}, id="one-of-two-ranks"),
    ],
)
def test_sharers_of_a_gpu_start_in_turn_because_each_measures_what_is_free(fields: dict[str, Any]) -> None:
    made = plan(3, **fields)
    assert made.unit("worker-0").after == ("frontend",)
    assert made.unit("worker-1").after == ("frontend", "worker-0")


def test_every_earlier_sharer_is_waited_for_and_nobody_else() -> None:
    made = plan(2, workers=4, gpus="0,1,0,0")
    assert made.unit("worker-1").after == ("frontend",)
    assert made.unit("worker-3").after == ("frontend", "worker-0", "worker-2")


def test_decode_workers_on_one_gpu_start_in_turn_too() -> None:
    made = plan(2, mode="disagg", decode=2, gpus="0,0,1")
    assert made.unit("decode-1").after == ("frontend", "decode-0")


def test_a_prefill_worker_names_a_decode_worker_once_though_they_share_a_gpu() -> None:
    assert plan(1, mode="disagg", gpus="0,0").unit("prefill-0").after == ("frontend", "decode-0")


def test_workers_on_a_cpu_share_no_gpu_and_start_side_by_side() -> None:
    assert plan(workers=2).unit("worker-1").after == ("frontend", "lmcache")


def test_sharers_that_are_to_start_together_do() -> None:
    made = plan(1, workers=2, gpus="0,0", start="overlapped")
    assert {unit.after for unit in made.workers} == {()}


def test_overlapped_starts_the_workers_together_and_keeps_the_gates() -> None:
    ordered = plan(2, mode="disagg")
    overlapped = plan(2, mode="disagg", start="overlapped")
    assert {unit.after for unit in overlapped.workers} == {()}
    assert [unit.gate for unit in overlapped.units] == [unit.gate for unit in ordered.units]


def test_a_password_of_redis_is_in_no_command_line_and_not_in_what_is_printed() -> None:
    made = plan(lmcache={"remote": "redis://user:secret@cache:6379"})
    server = made.unit("lmcache")
    assert "secret" not in " ".join(server.argv)
    assert (server.env["LMCACHE_RESP_USERNAME"], server.env["LMCACHE_RESP_PASSWORD"]) == ("user", "secret")
    assert "secret" not in render(made) + json.dumps(redact(made.as_json()))


def test_each_tier_in_process_is_a_variable_of_lmcaches() -> None:
    cache = {"disk": "/nvme", "disk_gb": "10GiB", "remote": "rediss://cache:6379", "gds": "/gds"}
    env = plan(1, lmcache=cache).unit("worker-0").env
    assert {name: env[name] for name in env if name.startswith("LMCACHE_") and "TRACK" not in name} == {
        "LMCACHE_DISABLE_BANNER": "1",
        "LMCACHE_CHUNK_SIZE": "256",
        "LMCACHE_LOCAL_CPU": "True",
        "LMCACHE_MAX_LOCAL_CPU_SIZE": "20",
        "LMCACHE_LOCAL_DISK": "file:///nvme/",
        "LMCACHE_MAX_LOCAL_DISK_SIZE": "10",
        "LMCACHE_REMOTE_URL": "rediss://cache:6379",
        "LMCACHE_GDS_PATH": "/gds",
        "LMCACHE_GDS_BUFFER_SIZE": "2048",
    }


def folders_of(cache: dict[str, Any], **fields: Any) -> dict[str, tuple[str, str]]:
    made = plan(8, lmcache=cache, **fields)
    names = ("LMCACHE_LOCAL_DISK", "LMCACHE_GDS_PATH")
    caching = [unit for unit in made.workers if unit.role != "decode"]
    return {unit.name: tuple(unit.env[name] for name in names) for unit in caching}  # type: ignore[misc]


def test_several_folders_are_shared_out_among_the_ranks() -> None:
    """LMCache gives a rank the folder with its number in its worker, so each worker has another order."""
    cache = {"disk": "file:///a/, ~root/b,/c", "disk_gb": 10, "gds": "/x,/y"}
    assert folders_of(cache, workers=4) == {
        "worker-0": ("file:///a/,file:///root/b/,file:///c/", "/x,/y"),
        "worker-1": ("file:///root/b/,file:///c/,file:///a/", "/y,/x"),
        "worker-2": ("file:///c/,file:///a/,file:///root/b/", "/x,/y"),
        "worker-3": ("file:///a/,file:///root/b/,file:///c/", "/y,/x"),
    }
    assert folders_of(cache, mode="disagg", prefill=2, tp=2)["prefill-1"] == (
        "file:///c/,file:///a/,file:///root/b/",
        "/x,/y",
    )
    made = plan(8, lmcache=cache, workers=4)
    assert [(tier.kind, tier.place, tier.gib) for tier in made.lmcache_tiers] == [
        ("gds", "/x", None),
        ("gds", "/y", None),
        ("disk", "/a", 20.0),
        ("disk", "/root/b", 10.0),
        ("disk", "/c", 10.0),
    ]
    unused = plan(1, lmcache={"disk": "/a,/b", "disk_gb": 10}).lmcache_tiers
    assert [tier.gib for tier in unused] == [10.0, 0.0]


@pytest.mark.parametrize(
    ("version", "takes_arc"), [("0.5.3", False), ("0.5.6", True), ("0.6.0", True), ("", True)]
)
def test_a_policy_is_one_of_the_installed_server(version: str, takes_arc: bool) -> None:
    def policy(name: str) -> str:
        env = {"LMCACHE_CACHE_POLICY": name}
        made = plan(versions={**VERSIONS, "lmcache": version}, lmcache={"env": env})
        argv = made.unit("lmcache").argv
        return argv[argv.index("--eviction-policy") + 1]

    assert policy("'isolatedlru'") == "IsolatedLRU"
    if takes_arc:
        assert policy("arc") == "ARC"
    else:
        with pytest.raises(SpecError, match="LMCache's server knows LRU, IsolatedLRU, noop"):
            policy("arc")


def test_no_unit_inherits_an_empty_tier() -> None:
    """LMCache would make a tier of an empty URL or path."""
    made = plan(2, mode="disagg", lmcache={"remote": "redis://h:1"})
    assert "LMCACHE_REMOTE_URL" not in made.unit("prefill-0").unset
    assert "LMCACHE_GDS_PATH" in made.unit("prefill-0").unset
    assert "LMCACHE_REMOTE_URL" in plan(1).unit("worker-0").unset


def test_a_worker_beside_a_server_gets_what_its_connector_reads() -> None:
    env = {"LMCACHE_LOG_LEVEL": "DEBUG", "LMCACHE_USE_UPSTREAM_MP": "1", "LMCACHE_RESP_PASSWORD": "secret"}
    made = plan(2, mode="disagg", lmcache={"mode": "mp", "env": {**env, "LMCACHE_LOCAL_CPU": "True"}})
    of_connector = {"LMCACHE_LOG_LEVEL": "DEBUG", "LMCACHE_USE_UPSTREAM_MP": "1"}
    by_rule = {"LMCACHE_TRACK_USAGE", "LMCACHE_DISABLE_BANNER"}
    for name, wanted in (("prefill-0", of_connector), ("decode-0", {})):
        own = {one: value for one, value in made.unit(name).env.items() if one.startswith("LMCACHE_")}
        assert {one: value for one, value in own.items() if one not in by_rule} == wanted
    assert env.items() <= made.unit("lmcache").env.items()


def test_each_tier_of_the_server_is_an_adapter_and_a_disk_is_kept_below_its_size() -> None:
    more = {"type": "mock", "max_size_gb": 1}
    made = plan(lmcache={"disk": "/nvme", "disk_gb": 10, "remote": "redis://cache", "l2": [more]})
    argv = made.unit("lmcache").argv
    adapters = [json.loads(argv[i + 1]) for i, word in enumerate(argv) if word == "--l2-adapter"]
    assert adapters == [
        {
            "type": "fs_native",
            "base_path": "/nvme",
            "max_capacity_gb": 10.0,
            "eviction": {"eviction_policy": "LRU"},
        },
        {"type": "resp", "host": "cache", "port": 6379},
        more,
    ]
    assert [(tier.kind, tier.gib) for tier in made.lmcache_tiers] == [
        ("disk", 10.0),
        ("remote", None),
        ("l2", None),
    ]


def test_gpudirect_storage_takes_the_place_of_the_servers_cpu_memory() -> None:
    argv = plan(1, lmcache={"mode": "mp", "gds": "/gds"}).unit("lmcache").argv
    assert argv[argv.index("--gds-l1-path") + 1] == "/gds"


def test_mooncake_by_the_servers_adapter_takes_what_its_url_says() -> None:
    made = plan(lmcache={"remote": "mooncakestore://master:50051/?protocol=rdma&local_hostname=node1"})
    argv = made.unit("lmcache").argv
    adapter = json.loads(argv[argv.index("--l2-adapter") + 1])
    assert (adapter["type"], adapter["master_server_address"]) == ("mooncake_store", "master:50051")
    assert (adapter["protocol"], adapter["local_hostname"]) == ("rdma", "node1")


@pytest.mark.parametrize(
    ("gpus", "fields", "gib"),
    [
        (1, {}, 161),  # 200 GiB are free, less 15 % of 256
        (2, {"tp": 2}, 160),  # 80 for each rank
        (2, {"mode": "disagg"}, 161),  # only prefill caches
        (0, {}, 161),
        (0, {"workers": 12}, 143),  # on a CPU, 4.7 GiB for each worker
    ],
)
def test_an_automatic_size_leaves_a_reserve(gpus: int, fields: dict[str, Any], gib: float) -> None:
    made = plan(gpus, lmcache={"cpu_gb": "auto"}, **fields)
    assert made.lmcache_cpu_gib == gib
