"""LMCache's tiers below CPU memory, on the real CPU stack: a local disk, and a Redis that others share.

What one deployment has computed, the next one finds: also after `down`, and in another mode.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli, chat, counter, free_port, wait_for
from .small_model import ENGINE_ARGS, NAME, SmallModel
from .stores import Redis

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm-1"), pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"
# The engine's own prefix cache is off, so only LMCache can answer.
ENGINE = ("--no-enable-prefix-caching",)
SEA = "The sea is wide and the sky is blue, said the sailor to his cat. " * 40
CHUNKS = 2  # whole ones of 256 tokens in SEA; `up` itself leaves one more
PASSWORD = "a-password-of-redis"


def up(cli: Cli, small: SmallModel, mode: str, *words: str, engine: tuple[str, ...] = ENGINE) -> str:
    """Bring it up as the example of this mode has it; give back its endpoint."""
    port = free_port()
    done = cli(
        "up", mode, "--config", str(EXAMPLES / f"{mode}.toml"), "--name", "default", "--device", "cpu",
        "--port", str(port), *small.words, *words, "--", *ENGINE_ARGS, *engine, patience_s=500,
    )  # fmt: skip
    assert done.code == 0, done.err
    return f"http://127.0.0.1:{port}"


def down(cli: Cli) -> None:
    done = cli("down")
    assert done.code == 0, done.err


def empty(cli: Cli) -> None:
    """Nothing in LMCache's CPU memory, nor in the engines' own caches; what is on disk and in Redis stays."""
    done = cli("cache", "clear")
    assert done.code == 0, done.err


def hits(cli: Cli) -> int:
    return int(cli.status()["cache"]["hit_tokens"])


def asks_lmcache(cli: Cli) -> bool:
    """Whether the engines ask LMCache's server, by their logs.

    None does from a heartbeat that was not answered in its 3 s, as on a machine that stalls, to the next one.
    """
    logs = (cli.home / "deployments/default/logs").glob("*.log")
    said = "".join(log.read_text(errors="replace") for log in logs)
    return said.count("entering degraded mode") == said.count("resuming normal operation")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    one = Redis(free_port(), tmp_path_factory.mktemp("redis"), PASSWORD)
    one.start()
    yield one
    one.kill()


def test_what_was_computed_once_comes_back_from_the_disk_and_from_redis(
    cli: Cli, redis: Redis, small: SmallModel, tmp_path: Path
) -> None:
    """An aggregated worker keeps it in both and finds it in each; after `down` a prefill worker does.

    And Redis may die and come back: requests go on, `status` says so. The last deployment's router hears by
    KV events what its workers' own caches hold.
    """
    kept, aside = tmp_path / "kv", tmp_path / "aside"
    tiers = ("--lmcache-disk", str(kept), "--lmcache-disk-gb", "1GiB", "--lmcache-remote", redis.url)

    def found_in_each() -> None:
        """The prompt's KV cache is in no memory here. Once the disk alone has it, and once Redis."""
        redis.swap()
        assert redis.keys() == 0
        found()
        empty(cli)
        redis.swap()
        kept.rename(aside)
        kept.mkdir()
        found()

    def found() -> None:
        wait_for(lambda: asks_lmcache(cli))
        before = hits(cli)
        assert chat(endpoint, NAME, SEA, max_tokens=4) == first
        assert hits(cli) - before >= 256 * CHUNKS

    endpoint = up(cli, small, "agg", *tiers)
    before = hits(cli)
    first = chat(endpoint, NAME, SEA, max_tokens=4)
    assert first == small.chats(SEA, 4)
    assert hits(cli) == before
    wait_for(lambda: len(list(kept.iterdir())) > CHUNKS)
    wait_for(lambda: redis.keys() > CHUNKS)
    empty(cli)
    found_in_each()
    down(cli)

    for file in aside.iterdir():
        file.replace(kept / file.name)
    aside.rmdir()
    endpoint = up(cli, small, "disagg", "--start", "overlapped", "--router-mode", "kv", *tiers, engine=())
    found_in_each()
    known, rate = cli.units()["frontend"]["ports"]["http"], "dynamo_component_router_kv_hit_rate_sum"
    before_again = counter(known, rate)
    assert chat(endpoint, NAME, SEA, max_tokens=4) == first
    # Nearly the whole prompt, as the router sees it; more where decode is asked for its share too.
    assert counter(known, rate) - before_again >= 0.8

    redis.kill()
    degraded = wait_for(lambda: said(cli, "degraded"))
    (warning,) = degraded["warnings"]
    assert f"redis://127.0.0.1:{redis.port} cannot be used: nothing answers there" in warning
    assert chat(endpoint, NAME, SEA, max_tokens=4) == first
    assert chat(endpoint, NAME, SEA.replace("sea", "river"), max_tokens=4)

    redis.start()  # it has forgotten everything
    assert wait_for(lambda: said(cli, "ready"))["warnings"] == []
    assert chat(endpoint, NAME, SEA.replace("sea", "forest"), max_tokens=4)
    wait_for(redis.keys)

    # Full: LMCache's connections are useless from the first refusal on, also when there is room.
    redis.limit(1)
    full = wait_for(lambda: said(cli, "degraded"))
    assert f"redis://127.0.0.1:{redis.port} cannot be used: it is full" in full["warnings"][0]
    assert chat(endpoint, NAME, SEA.replace("sea", "desert"), max_tokens=4)
    restarts = unit(cli, "lmcache")["restarts"]
    redis.limit(0)
    wait_for(lambda: said(cli, "ready") and unit(cli, "lmcache")["restarts"] == restarts + 1)
    kept_before = redis.keys()
    wait_for(lambda: asks_lmcache(cli))
    assert chat(endpoint, NAME, SEA.replace("sea", "valley"), max_tokens=4)
    wait_for(lambda: redis.keys() > kept_before)

    # A server that started without its store would say healthy, and requests would hang.
    server = unit(cli, "lmcache")
    redis.kill()
    os.kill(server["pid"], signal.SIGKILL)
    wait_for(lambda: unit(cli, "lmcache")["phase"] == "waiting for LMCache's store")
    assert chat(endpoint, NAME, SEA.replace("sea", "meadow"), max_tokens=4)
    assert cli.status()["state"] == "degraded"
    redis.start()
    wait_for(lambda: said(cli, "ready"))
    assert unit(cli, "lmcache")["restarts"] == server["restarts"] + 1
    wait_for(lambda: cli("cache", "check").code == 0)  # the workers find the new server by themselves

    logs = [log.read_text(errors="replace") for log in (cli.home / "deployments/default/logs").iterdir()]
    assert any("Created RESP L2 adapter" in log for log in logs)
    assert not any(PASSWORD in log for log in logs)
    down(cli)


def unit(cli: Cli, name: str) -> dict[str, Any]:
    return next(one for one in cli.status()["units"] if one["name"] == name)


def said(cli: Cli, state: str) -> dict[str, Any] | None:
    body = cli.status()
    return body if body["state"] == state else None
