"""What comes back from LMCache is what was stored: by the shape of the model, by mode and by tier.

Greedy answers of random weights, computed and with a hit. A GPU adds numbers in another order when a part of
the prompt is there already, so an answer may go another way where two tokens are about as likely; until then
the tokens are the same, and each is as likely as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from dynamoctl.host import models
from dynamoctl.host.facts import versions
from dynamoctl.planner.lmcache import keeps_in_process

from tests import shapes
from tests.e2e.conftest import Cli, free_port, post, wait_for
from tests.e2e.stores import Redis

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900)]

WORDS = ("sea", "river", "forest", "hill", "meadow", "desert")
TOKENS = 24
# A prompt has two whole chunks of LMCache's; of a model with a state it has one, of one block.
CHUNKS = {"mamba": (1, 528), "delta-net": (1, 544)}
PLAIN_CHUNKS = (2, 256)
# vLLM's block: what the prompts have in common at their beginning is in its own cache.
BLOCK = 16
# Log probabilities: how near two tokens are that can take each other's place, and how far one may move.
NEAR, FAR = 0.5, 0.5


class Token(NamedTuple):
    """One of an answer: with its log probability, and how much less likely the next best was."""

    text: str
    logprob: float
    ahead: float


def answer(endpoint: str, word: str, tokens: int = TOKENS) -> list[Token]:
    prompt = f"The {word} is wide and the sky is blue, said the sailor to his cat. " * 38
    body = {"model": "model", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 2}
    found = post(f"{endpoint}/v1/completions", body)["choices"][0]["logprobs"]
    return [
        Token(text, logprob, max(best.values()) - min(best.values()))
        for text, logprob, best in zip(
            found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
        )
    ]


def same_until(computed: list[Token], other: list[Token]) -> tuple[int, bool]:
    """How many tokens are the same, and whether only another order of additions ends it."""
    for number, (mine, theirs) in enumerate(zip(computed, other, strict=True)):
        if mine.text != theirs.text:
            return number, mine.ahead < NEAR
        if abs(mine.logprob - theirs.logprob) > FAR:
            return number, False
    return len(computed), True


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    one = Redis(free_port(), tmp_path_factory.mktemp("redis"))
    one.start()
    yield one
    one.kill()


@pytest.fixture
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    if request.param == "disk":
        return ("--lmcache-disk", str(tmp_path / "kv"), "--lmcache-disk-gb", "4GiB")
    if request.param == "redis":
        return ("--lmcache-remote", request.getfixturevalue("redis").url)
    return ()


@pytest.fixture(autouse=True)
def taken_down(cli: Cli) -> Iterator[None]:
    yield
    assert cli("down", "--all").code == 0


@pytest.mark.parametrize("tier", ["memory", "disk", "redis"], indirect=True)
@pytest.mark.parametrize("mode", ["mp", "inproc"])
@pytest.mark.parametrize("shape", list(shapes.SHAPES))
def test_an_answer_with_a_hit_is_the_one_without(
    cli: Cli, shape: str, mode: str, tier: tuple[str, ...], tmp_path: Path
) -> None:
    if mode == "inproc" and (shape in CHUNKS or not keeps_in_process(versions(), "cuda")):
        pytest.skip("refused by the plan")
    folder = shapes.write(shape, models.builtin_folder(), tmp_path / shape)
    port = free_port()
    chunks, size = CHUNKS.get(shape, PLAIN_CHUNKS)
    small = mode == "inproc" and tier  # what is in the engine cannot be emptied but by more of it
    up = cli(
        "up", "agg", "--gpus", "0", "--model", str(folder), "--served-model-name", "model",
        "--port", str(port), "--lmcache-mode", mode, "--lmcache-cpu-gb", "0.05" if small else "1",
        "--lmcache-chunk-size", str(size), *tier,
        "--", "--enforce-eager", "--max-model-len", "2048", "--gpu-memory-utilization", "0.05",
        "--kv-cache-memory-bytes", "1G", patience_s=800,
    )  # fmt: skip
    assert up.code == 0, up.err
    endpoint = f"http://127.0.0.1:{port}"
    computed = [answer(endpoint, word) for word in WORDS]
    own = [answer(endpoint, word) for word in WORDS]
    if small:
        for number in range(6 * len(WORDS)):
            answer(endpoint, f"number {number}", tokens=1)
    elif tier:
        wait_for(lambda: cli("cache", "clear").code == 0, 60)
    check = cli("cache", "check")
    before = cli.status()["cache"]["hit_tokens"]
    loaded = [answer(endpoint, word) for word in WORDS]
    answer(endpoint, "step more, which counts what came before it,", tokens=1)
    hits = cli.status()["cache"]["hit_tokens"] - before
    seen = [list(map(same_until, computed, others)) for others in (own, loaded)]
    print(f"{shape}, {mode}, {tier or 'memory'}: {hits} tokens from LMCache, {check.out or check.err}")
    print(f"the same with vLLM's own cache: {seen[0]}\nthe same with LMCache: {seen[1]}")
    assert hits >= chunks * (size - BLOCK) * len(WORDS)
    assert all(right for _, right in seen[1])
    assert sum(number for number, _ in seen[1]) >= TOKENS
