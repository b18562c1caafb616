"""When LMCache's server is restarted because of a store: when its connection is gone, and only then."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from dynamoctl.monitoring import probes
from dynamoctl.supervisor import store_watch

FULL = "full"
REDIS, OTHER = "redis://127.0.0.1:6379", "lm://127.0.0.1:65432"


@dataclass
class World:
    """A store, second by second: its run, or None while it does not answer."""

    seconds: list[str | None]
    url: str = REDIS
    now: int = -1
    restarts: list[int] = field(default_factory=list)

    def deployment(self) -> Any:
        tier = SimpleNamespace(kind="remote", place=self.url)
        return SimpleNamespace(
            plan=SimpleNamespace(lmcache_tiers=[tier]),
            state=SimpleNamespace(lost_stores=[]),
            degrade_or_recover=lambda: None,
            save=lambda: None,
        )

    async def sleep(self, _seconds: float) -> None:
        self.now += 1
        if self.now == len(self.seconds):
            raise asyncio.CancelledError

    def answers(self, _store: Any) -> tuple[bool, str]:
        run = self.seconds[self.now]
        return run not in (None, FULL), "it is full" if run == FULL else probes.SILENT[1]

    async def renew(self, _deployment: Any, _last_lost_at: float) -> None:
        self.restarts.append(self.now)

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of the clock and of the store."""

        async def to_thread(work: Any, *words: Any) -> Any:
            return work(*words)

        asyncio_ = SimpleNamespace(sleep=self.sleep, to_thread=to_thread)
        patch.setattr(store_watch, "asyncio", asyncio_)
        patch.setattr(store_watch, "time", SimpleNamespace(time=lambda: 1000.0 + self.now))
        patch.setattr(store_watch, "_renew_cache_server", self.renew)
        answers = SimpleNamespace(
            SILENT=probes.SILENT,
            store_answers=self.answers,
            store_run=lambda _: self.seconds[self.now] or "",
        )
        patch.setattr(store_watch, "probes", answers)

    def watch(self, patch: pytest.MonkeyPatch) -> list[int]:
        """The seconds at which LMCache's server is restarted."""
        self.stand_in(patch)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(store_watch.watch_stores(self.deployment()))
        return self.restarts


@pytest.mark.parametrize(
    ("seconds", "restarts"),
    [
        pytest.param(["a"] * 9, [], id="there all the time"),
        pytest.param(["a", *[None] * 30, "a", "a"], [], id="frozen or cut off for a short time"),
        pytest.param(["a", *[None] * 70, "a", "a"], [71], id="for a long time"),
        pytest.param(["a", None, "b", "b"], [2], id="started anew"),
        pytest.param(["a", "b", "b"], [1], id="started anew, and nobody saw it away"),
        pytest.param([None, None, "a"], [2], id="away from the start"),
        pytest.param(["a", *[None] * 9, "a", *[None] * 55, "a"], [], id="twice for a short time"),
        pytest.param(["a", FULL, None, FULL, "a"], [4], id="full: LMCache's connections are out of step"),
        pytest.param(["a", FULL, "a", None, "a"], [2], id="silent after it was full"),
        pytest.param(["a", None, "", ""], [2], id="a user that may not ask for the run"),
    ],
)
def test_the_server_is_restarted_if_its_connection_is_gone(
    seconds: list[str | None], restarts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert World(seconds).watch(monkeypatch) == restarts


def test_of_another_store_nobody_knows_whether_it_was_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert World(["", None, ""], OTHER).watch(monkeypatch) == [2]


@pytest.mark.parametrize(("role", "waited_s"), [("cache", 3), ("worker", 0)])
def test_lmcaches_server_is_not_started_before_its_store_answers(
    role: str, waited_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say healthy, and requests would hang. A worker does not wait."""
    world = World([None, None, None, "a", "a"], now=0)
    phases: list[str] = []
    member: Any = SimpleNamespace(unit=SimpleNamespace(role=role), state=SimpleNamespace(phase=""))
    deployment = world.deployment()
    deployment.save = lambda: phases.append(member.state.phase)
    world.stand_in(monkeypatch)
    asyncio.run(store_watch.until_they_answer(deployment, member))
    assert world.now == waited_s
    assert member.state.phase == ""
    assert set(phases) == ({"waiting for LMCache's store"} if waited_s else set())


@pytest.mark.parametrize(
    ("used", "most", "policy", "full"),
    [
        (91, 100, "noeviction", True),
        (89, 100, "noeviction", False),
        (91, 100, "allkeys-lru", False),
        (91, 0, "noeviction", False),
    ],
)
def test_a_redis_that_keeps_what_it_has_is_full_before_it_refuses(
    used: int, most: int, policy: str, full: bool
) -> None:
    memory = {"used_memory": used, "maxmemory": most, "maxmemory_policy": policy}
    assert probes._is_full(SimpleNamespace(info=lambda section: memory), redis) is full


def test_a_redis_whose_user_may_not_ask_is_not_taken_for_full() -> None:
    def info(_section: str) -> None:
        raise redis.ResponseError

    assert not probes._is_full(SimpleNamespace(info=info), redis)
