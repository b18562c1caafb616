"""What `down` waits for before the workers get SIGTERM."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.monitoring import observe
from dynamoctl.supervisor import draining


class Deployment:
    """Two workers and a frontend; `withheld` are the workers that were taken out of discovery."""

    def __init__(self, drain_s: float, *states: str, engine: str = "vllm") -> None:
        self.plan = SimpleNamespace(drain_s=drain_s, engine=engine)
        names = ("frontend", "worker-0", "worker-1")
        self.members = [
            SimpleNamespace(
                unit=SimpleNamespace(name=name, is_worker=name != "frontend"),
                state=SimpleNamespace(state=state),
            )
            for name, state in zip(names, ("ready", *states), strict=True)
        ]
        self.withheld: list[str] = []

    registrations = leases = None

    def processes_of_each(self, members: list[Any]) -> list[list[str]]:
        return [[member.unit.name] for member in members]

    def withhold(self, processes: list[str]) -> None:
        self.withheld += processes


Figures = Callable[[int], dict[str, dict[str, float]]]


@pytest.fixture
def drain(monkeypatch: pytest.MonkeyPatch) -> Callable[[Deployment, Figures], int]:
    """Drain a deployment whose engines show these figures in turn; gives how often they were asked."""

    def run(deployment: Any, figures: Figures) -> int:
        looks: dict[str, int] = defaultdict(int)

        async def requests_of(unit: Any) -> Any:
            looks[unit.name] += 1
            found = figures(looks[unit.name]).get(unit.name)
            return None if found is None else observe.Requests(sum(found.values()))

        monkeypatch.setattr(observe, "requests_of", requests_of)
        asyncio.run(draining.drain(deployment))
        return max(looks.values(), default=0)

    monkeypatch.setattr(draining, "_INTERVAL_S", 0.001)
    return run


def test_it_waits_until_no_engine_has_a_request(drain: Any) -> None:
    deployment = Deployment(60, "ready", "ready")
    figures = {
        1: {"requests_running": 2.0},
        2: {"requests_waiting": 1.0},
        3: {},
        4: {"requests_running": 1.0},
    }
    assert drain(deployment, lambda look: {"worker-0": {}, "worker-1": figures.get(look, {})}) == 7
    assert deployment.withheld == ["worker-0", "worker-1"]


def test_it_does_not_wait_longer_than_drain_s(drain: Any, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = Deployment(0.5, "ready", "ready")
    assert drain(deployment, lambda _: {"worker-0": {"requests_running": 3.0}}) > 1
    assert "requests still in flight after --drain: 3" in capsys.readouterr().err


def test_a_worker_that_is_not_ready_is_not_waited_for(drain: Any) -> None:
    deployment = Deployment(60, "unresponsive", "ready")
    assert drain(deployment, lambda _: {"worker-0": {"requests_running": 1.0}}) == 3
    assert deployment.withheld == ["worker-1"]


@pytest.mark.parametrize("states", [("starting", "failed"), ("unresponsive", "backoff")])
def test_nothing_is_asked_if_no_worker_serves(drain: Any, states: tuple[str, str]) -> None:
    deployment = Deployment(60, *states)
    assert drain(deployment, lambda _: {}) == 0
    assert deployment.withheld == []


@pytest.mark.parametrize(("drain_s", "engine"), [(0, "vllm"), (60, "mocker")])
def test_without_a_grace_period_or_with_mockers_nothing_is_waited_for(
    drain: Any, drain_s: float, engine: str
) -> None:
    """A mocker drains after SIGTERM: it would get the time twice."""
    deployment = Deployment(drain_s, "ready", "ready", engine=engine)
    assert drain(deployment, lambda _: {}) == 0
    assert deployment.withheld == []
