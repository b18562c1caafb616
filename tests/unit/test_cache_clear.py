"""`cache clear`: LMCache's server keeps for a while what requests read or store."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.monitoring import cache_probe, loopback_http, observe
from dynamoctl.monitoring.loopback_http import Answer
from dynamoctl.operations import cache
from dynamoctl.planner.plan import DeploymentPlan

from tests.unit.hosts import plan


def cleared(
    monkeypatch: pytest.MonkeyPatch, held: Iterator[float], running: float | None = 0, **fields: Any
) -> tuple[list[str], list[bool]]:
    """What stays, and how the server was asked, where it holds so many bytes after each time."""
    asked: list[bool] = []

    async def ask(_method: str, url: str, body: dict[str, Any]) -> Answer:
        assert url.endswith("/cache/clear")
        asked.append(body["force"])
        return Answer(200, b"")

    async def snapshot(made: DeploymentPlan) -> Any:
        load = {"requests_running": running, "requests_waiting": 0}
        return SimpleNamespace(gauges={worker.name: load for worker in made.workers})

    async def memory(_plan: object) -> float:
        return next(held)

    async def prefix_caches(_plan: object) -> bool:
        return True

    monkeypatch.setattr(cache, "serving_plan", lambda _name: plan(**fields))
    monkeypatch.setattr(cache, "_SETTLE_S", 0.0)
    monkeypatch.setattr(cache, "_IN_USE_S", 0.05)
    monkeypatch.setattr(loopback_http, "ask", ask)
    monkeypatch.setattr(observe, "snapshot", snapshot)
    monkeypatch.setattr(observe, "cache_memory_bytes", memory)
    monkeypatch.setattr(cache_probe, "clear_prefix_caches", prefix_caches)
    return cache.clear("default"), asked


def test_what_is_still_being_stored_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cleared(monkeypatch, iter([4e6, 2e6, 0.0])) == ([], [False] * 3)


def locked() -> Iterator[float]:
    """So much is held for ever."""
    while True:
        yield 3 * 2.0**20


@pytest.mark.parametrize("running", [1, None])
def test_what_requests_go_on_using_stays_and_is_said(
    monkeypatch: pytest.MonkeyPatch, running: float | None
) -> None:
    kept, asked = cleared(monkeypatch, locked(), running, lmcache={"disk": "/d", "disk_gb": 1})
    assert kept == ["what requests use now (3 MiB)", "disk /d"]
    assert len(asked) > 1
    assert not any(asked)


def test_what_no_request_can_use_any_more_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = cleared(monkeypatch, locked(), running=0)
    assert asked[-1] is True
    assert asked.count(True) == 1
