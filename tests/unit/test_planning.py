"""From the user's words to a plan: what another start has planned meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from dynamoctl.checks import gpus, model
from dynamoctl.checks.base import Level
from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.host.processes import identify
from dynamoctl.operations import planning
from dynamoctl.operations.planning import PlanningResult
from dynamoctl.planner import printed
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState, starts_in_turn

from tests.unit.hosts import host, spec


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanningResult:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    flags = {"mode": "disagg", "engine": "mocker", "device": "cpu", "port": 8765, "name": "mine"}
    return planning.plan_for_here(flags, None)


def start_another(ports: dict[str, int]) -> None:
    """Another `up` has planned these, and its supervisor has begun."""
    units = [UnitState("worker-0", "agg", "pending", ports=ports)]
    state = DeploymentState("other", "agg", "m", "", "x", supervisor=identify(os.getpid()), units=units)
    DeploymentDir("other").write_state(state)


def ports_of(one: PlanningResult) -> list[int]:
    return [port for unit in one.plan.units for port in unit.ports.values()]


def without_ports(one: PlanningResult) -> str:
    text = printed.render(one.plan)
    for number, port in enumerate(ports_of(one)):
        text = text.replace(str(port), f"PORT-{number}")
    return text


def test_what_is_to_know_of_the_plan_is_in_it_and_a_warning_of_doctor_and_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    facts = host(2, visible=())
    made = planning.plan(spec(), facts)
    (note,) = made.plan.notes
    assert f"note      {note.what}" in printed.render(made.plan)
    assert DeploymentPlan.from_json(json.loads(json.dumps(made.plan.as_json()))).notes == (note,)
    (finding,) = gpus.GPUS.run(made.plan, facts, made.model)
    assert (finding.level, finding.what) == (Level.WARNING, note.what)
    assert planning.plan(spec(device="cpu"), facts).plan.notes == ()
    start_another({"system": made.plan.workers[0].ports["system"]})
    monkeypatch.setattr(planning, "look", lambda _: facts)
    with contextlib.suppress(PreflightError):  # this host's ports are the same in these facts
        assert planning.with_own_ports(made).plan.notes == (note,)


@pytest.mark.parametrize("shell", ["", "/nowhere"])
def test_the_hubs_cache_of_env_is_that_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """`[env] HF_HOME`, as in the example of every key."""
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    if shell:
        monkeypatch.setenv("HF_HOME", shell)
    snapshot = tmp_path / "hf" / "hub" / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_text('{"eos_token_id": 2}')
    (tmp_path / "dynamoctl.toml").write_text('model = "a/b"\n[env]\nHF_HOME = "hf"\nHF_HUB_OFFLINE = "1"\n')
    made = planning.plan_for_here({"mode": "agg", "device": "cpu"}, None)
    assert made.model.folder == str(snapshot)
    assert model.CHECK.run(made.plan, made.facts, made.model) == []


def test_a_plan_stays_as_it_is_where_nobody_has_planned_its_ports(planned: PlanningResult) -> None:
    start_another({"system": 1})
    assert planning.with_own_ports(planned) is planned


def test_a_port_that_another_start_has_planned_meanwhile_is_left_to_it(planned: PlanningResult) -> None:
    lost = planned.plan.unit("decode-0").ports["system"]
    start_another({"system": lost})
    again = planning.with_own_ports(planned)
    assert lost not in ports_of(again)
    assert len(set(ports_of(again))) == len(ports_of(planned)) == 3
    assert again.plan.unit("decode-0").gate.port == again.plan.unit("decode-0").ports["system"]
    # Nothing else is another.
    assert without_ports(again) == without_ports(planned)


def test_the_http_port_is_the_users_to_choose(planned: PlanningResult) -> None:
    start_another({"http": planned.plan.port})
    with pytest.raises(PreflightError, match="port 8765 is that of another deployment") as failed:
        planning.with_own_ports(planned)
    assert failed.value.hint == "choose another port with --port"


def test_who_starts_waits_for_the_other_start(planned: PlanningResult) -> None:
    DeploymentDir("mine").make()
    held = pytest.raises(DynamoctlError, match="another deployment is being started")
    with starts_in_turn(), held, starts_in_turn(patience_s=0.0):
        pass
    with starts_in_turn(patience_s=0.0):
        pass
