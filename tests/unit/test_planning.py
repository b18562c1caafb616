"""From the user's words to a plan: what another start has planned meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.host.processes import identify
from dynamoctl.operations import planning
from dynamoctl.operations.planning import PlanningResult
from dynamoctl.planner import printed
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState, starts_in_turn


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
