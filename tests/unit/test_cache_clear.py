"""`cache clear`: LMCache's server keeps for a while what requests read or store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dynamoctl.monitoring import cache_probe, loopback_http, observe
from dynamoctl.monitoring.loopback_http import Answer
from dynamoctl.operations import cache

from tests.unit.hosts import plan


def cleared(monkeypatch: pytest.MonkeyPatch, held: Iterator[float], **fields: Any) -> tuple[list[str], int]:
    """What stays, and how often the server was asked, where it holds so many bytes after each time."""
    asked: list[str] = []

    async def ask(_method: str, url: str) -> Answer:
        asked.append(url)
        return Answer(200, b"")

    async def memory(_plan: object) -> float:
        return next(held)

    async def prefix_caches(_plan: object) -> bool:
        return True

    monkeypatch.setattr(cache, "serving_plan", lambda _name: plan(**fields))
    monkeypatch.setattr(cache, "_SETTLE_S", 0.0)
    monkeypatch.setattr(cache, "_IN_USE_S", 0.05)
    monkeypatch.setattr(loopback_http, "ask", ask)
    monkeypatch.setattr(observe, "cache_memory_bytes", memory)
    monkeypatch.setattr(cache_probe, "clear_prefix_caches", prefix_caches)
    kept = cache.clear("default")
    assert {url.rpartition("/cache/")[2] for url in asked} == {"clear"}
    return kept, len(asked)


def test_what_is_still_being_stored_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cleared(monkeypatch, iter([4e6, 2e6, 0.0])) == ([], 3)


def test_what_requests_go_on_using_stays_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever() -> Iterator[float]:
        while True:
            yield 3 * 2.0**20

    kept, asked = cleared(monkeypatch, forever(), lmcache={"disk": "/d", "disk_gb": 1})
    assert kept == ["what requests use now (3 MiB)", "disk /d"]
    assert asked > 1
