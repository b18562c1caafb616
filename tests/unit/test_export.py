"""What Prometheus and Grafana are handed: targets, a configuration, a dashboard."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dynamoctl.cli import run
from dynamoctl.export import grafana, prometheus
from dynamoctl.host.processes import identify
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState

from tests.unit.hosts import plan

# ---- Prometheus -----------------------------------------------------------------------------


def test_every_unit_is_a_target_with_its_labels() -> None:
    groups = prometheus.targets(plan(mode="disagg"))
    common = {"deployment": "default", "model": "smollm2-135m-instruct", "gpus": ""}
    # The ports are those of tests/golden/disagg-cpu.txt.
    assert groups == [
        {"targets": [at], "labels": {**common, "unit": unit, "role": role}}
        for unit, role, at in [
            ("frontend", "frontend", "127.0.0.1:8000"),
            ("lmcache", "cache", "127.0.0.1:20001"),
            ("decode-0", "decode", "127.0.0.1:20002"),
            ("prefill-0", "prefill", "127.0.0.1:20008"),
        ]
    ]


def test_labels_are_strings_and_name_the_gpus() -> None:
    groups = prometheus.targets(plan(4, mode="disagg", tp=2))
    assert {type(value) for one in groups for value in one["labels"].values()} == {str}
    assert [one["labels"]["gpus"] for one in groups] == ["", "0,1", "2,3"]


@pytest.mark.parametrize(
    ("host", "target"),
    [("0.0.0.0", "127.0.0.1:8000"), ("::", "[::1]:8000"), ("192.0.2.1", "192.0.2.1:8000")],
)
def test_the_frontend_is_asked_where_this_machine_reaches_it(host: str, target: str) -> None:
    frontend, *others = prometheus.targets(plan(host=host))
    assert frontend["targets"] == [target]
    assert all(one["targets"][0].startswith("127.0.0.1:") for one in others)


def test_the_config_is_a_whole_one_and_names_the_files() -> None:
    body = yaml.safe_load(prometheus.config('/a "home"/prometheus/*.json'))
    (job,) = body["scrape_configs"]
    assert job["job_name"] == "dynamoctl"
    assert job["file_sd_configs"][0]["files"] == ['/a "home"/prometheus/*.json']


# ---- the commands ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def bring_up(name: str, state: str = "ready", ready_at: float = 1.0, lives: bool = True) -> DeploymentPlan:
    """The folder of a deployment as its supervisor leaves it; its only process is this one."""
    made = plan(name=name)
    folder = DeploymentDir(name)
    folder.write_plan({"start_id": "1", "plan": made.as_json()})
    me = identify(os.getpid())
    unit = UnitState("worker-0", "agg", "ready", identity=me if lives else None)
    folder.write_state(
        DeploymentState(name, "agg", "m", made.endpoint, "1", state, ready_at=ready_at, units=[unit])
    )
    return made


def test_what_is_up_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = bring_up("default"), bring_up("other", "degraded")
    assert run(["export", "prometheus"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == prometheus.targets(one)
    assert shown.err == ""
    assert run(["export", "prometheus", "--all"]) == 0
    assert json.loads(capsys.readouterr().out) == prometheus.targets(one) + prometheus.targets(other)
    assert run(["export", "prometheus", "-n", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "dynamoctl/export/v1",
        "ok": True,
        "program": "prometheus",
        "format": "targets",
        "content": prometheus.targets(other),
        "path": None,
        "notes": [],
    }


@pytest.mark.parametrize(
    "fields",
    [{"state": "stopped"}, {"state": "stopping"}, {"state": "starting", "ready_at": 0.0}, {"lives": False}],
    ids=str,
)
def test_what_is_not_up_has_no_targets(capsys: pytest.CaptureFixture[str], fields: dict[str, Any]) -> None:
    bring_up("default", **fields)
    for words in (["-n", "default"], ["--all"], []):
        assert run(["export", "prometheus", *words]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out) == []
        assert "up" in shown.err


def test_with_nothing_there_the_list_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "prometheus"]) == 0
    shown = capsys.readouterr()
    assert (json.loads(shown.out), shown.err) == ([], "'default' is not up\n")


@pytest.mark.parametrize("form", ["targets", "config"])
def test_an_unknown_name_is_an_error(capsys: pytest.CaptureFixture[str], form: str) -> None:
    bring_up("default")
    assert run(["export", "prometheus", "-n", "defualt", "--format", form]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "never started" in shown.err
    assert "default" in shown.err


def test_the_config_follows_all_or_one(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    def files(*words: str) -> list[str]:
        assert run(["export", "prometheus", "--format", "config", *words]) == 0
        (job,) = yaml.safe_load(capsys.readouterr().out)["scrape_configs"]
        named: list[str] = job["file_sd_configs"][0]["files"]
        return named

    everything = [str(home / "prometheus" / "*.json")]
    assert files() == everything  # before anything was started
    bring_up("default")
    assert files() == files("--all") == everything
    assert files("-n", "default") == [str(home / "prometheus" / "default.json")]
    assert DeploymentDir("default").targets_file == home / "prometheus" / "default.json"
    # Prometheus takes a pattern in the last part of a path alone.
    assert "*" not in str(Path(everything[0]).parent)


def test_output_is_written_whole_and_keeps_what_it_cannot_replace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made, file = bring_up("default"), tmp_path / "targets.json"
    file.write_text("old")
    assert run(["export", "prometheus", "-o", str(file)]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"wrote {file}\n")
    assert json.loads(file.read_text()) == prometheus.targets(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "targets.json"]
    assert run(["export", "grafana", "--json", "-o", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(file)
    assert json.loads(file.read_text()) == grafana.dashboard()


def test_output_that_cannot_be_written_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for nowhere in (tmp_path / "no" / "such.json", tmp_path):
        assert run(["export", "grafana", "-o", str(nowhere)]) == 3
        shown = capsys.readouterr()
        assert shown.out == ""
        assert f"cannot write {nowhere}" in shown.err


def test_a_damaged_plan_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    bring_up("default")
    DeploymentDir("default").write_plan({"start_id": "1", "plan": {"name": "default"}})
    assert run(["export", "prometheus", "--json"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["ok"]) == ("dynamoctl/export/v1", False)
    assert "plan.json is damaged" in body["error"]["message"]


def test_the_file_for_prometheus_is_not_the_users_alone_but_its_folder_is(home: Path) -> None:
    """So that one command of the user's lets Prometheus in."""
    made = bring_up("default")
    before = os.umask(0o022)
    try:
        DeploymentDir("default").write_targets(prometheus.targets(made))
    finally:
        os.umask(before)
    assert (home / "prometheus").stat().st_mode & 0o777 == 0o700
    assert (home / "prometheus" / "default.json").stat().st_mode & 0o777 == 0o644
    (home / "prometheus").chmod(0o755)
    DeploymentDir("default").write_targets(prometheus.targets(made))
    assert (home / "prometheus").stat().st_mode & 0o777 == 0o755
    DeploymentDir("default").remove_targets()
    assert list((home / "prometheus").iterdir()) == []


# ---- Grafana --------------------------------------------------------------------------------


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in grafana.dashboard()["panels"] if panel["type"] != "row")


def test_the_dashboard_has_what_grafana_needs() -> None:
    board = grafana.dashboard()
    assert json.loads(json.dumps(board)) == board
    assert board["schemaVersion"] >= 41  # Grafana 12
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert list(variables) == ["datasource", "deployment", "unit"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["description"].endswith(".")
        assert panel["datasource"] == source
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all(target["datasource"] == source for target in panel["targets"])


def test_panels_do_not_lie_over_each_other() -> None:
    taken = set()
    for panel in grafana.dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))


def expressions() -> dict[str, str]:
    return {f"{panel['title']} {one['refId']}": one["expr"] for panel in panels() for one in panel["targets"]}


@pytest.mark.parametrize("name", expressions())
def test_every_expression_is_of_the_chosen_deployments(name: str) -> None:
    """That it parses, and has values, Prometheus itself says in tests/e2e."""
    expr = expressions()[name]
    selectors = re.findall(r"[a-z_:0-9]+\{([^}]*)\}", expr)
    assert selectors
    assert all('deployment=~"$deployment"' in one for one in selectors)
    assert set(re.findall(r"\$\w+", expr)) <= {
        "$deployment",
        "$unit",
        "$__rate_interval",
        "$__rate_interval_ms",
    }
    for left, right in ("()", "{}", "[]"):
        assert expr.count(left) == expr.count(right)


def source_of(package: str, *files: str) -> str:
    """The text of files of a package, without its import."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations
    roots = [Path(place) for place in found.submodule_search_locations]
    return "\n".join(next(r / f for r in roots if (r / f).exists()).read_text() for f in files)


@pytest.mark.packages
def test_every_metric_is_one_of_the_packages() -> None:
    vllm = source_of("vllm", "v1/metrics/loggers.py", "distributed/kv_transfer/kv_connector/v1/nixl/stats.py")
    known = {"up", *re.findall(r'"(vllm:\w+)"', vllm)}
    for name in re.findall(r'^ {4}[A-Z_]+ = "(\w+)"', source_of("dynamo", "prometheus_names.py"), re.M):
        known.add(f"dynamo_frontend_{name}")
    memory = source_of("lmcache", "v1/distributed/l1_manager.py")
    lookup = source_of("lmcache", "v1/mp_observability/subscribers/metrics/lookup.py")
    # OpenTelemetry's exporter adds the unit of a counter, and `_total`.
    for text, unit in ((memory, ""), (lookup, "_tokens")):
        assert unit.strip("_") in text
        known |= {f"lmcache_mp_{name}{unit}" for name in re.findall(r'"lmcache_mp\.(\w+)"', text)}
    used = {one for expr in expressions().values() for one in re.findall(r"([a-z_:0-9]+)\{", expr)}
    assert len(used) > 20
    unknown = {one for one in used if not {one, re.sub(r"_(total|bucket|sum|count)$", "", one)} & known}
    assert unknown == set()
