"""The proof of LMCache: hits alone do not say that what comes back is what was kept."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from dynamoctl.answers.cache import CacheProbe
from dynamoctl.errors import NotReadyError
from dynamoctl.monitoring import cache_probe
from dynamoctl.monitoring.cache_probe import exercise, same_answer
from dynamoctl.planner.plan import DeploymentPlan

from tests.unit.hosts import plan
from tests.unit.served import served

SURE, UNSURE = math.log(0.95), math.log(0.4)
HITS = "vllm:external_prefix_cache_hits_total"


def answer(*tokens: str, logprob: float = SURE) -> list[tuple[str, float]]:
    return [(token, logprob) for token in tokens]


@pytest.mark.parametrize(
    ("first", "last", "same"),
    [
        (answer("4", "1"), answer("4", "1"), True),
        (answer("4", "1"), answer("4", "2"), False),
        # What the model was not sure of may differ by another order of additions, and so may what follows.
        (answer("4") + answer("1", logprob=UNSURE) + answer("7"), answer("4", "2", "9"), True),
        (answer("4", logprob=UNSURE), answer("5"), None),
        ([], answer("5"), None),
        (answer("4", "1"), answer("4"), False),
        (answer("4"), answer("4", logprob=UNSURE), True),
    ],
)
def test_an_answer_is_compared_as_far_as_the_model_was_sure(
    first: Sequence[tuple[str, float]], last: Sequence[tuple[str, float]], same: bool | None
) -> None:
    assert same_answer(first, last) is same


def test_the_exercise_ends_with_the_numbers_that_it_begins_with() -> None:
    words = exercise(300).split()
    numbers = [word for word in words if word.isdigit() and len(word) == 4]
    assert len(numbers) == 48
    assert numbers[36:] == numbers[:12]
    assert words[-12:] == numbers[:12]
    assert len(words) + 2 * 48 >= 300
    assert exercise(300).split()[0] != words[0]


def one_worker(
    second: Sequence[tuple[str, float]], hits: int, deaf_for: int = 1
) -> Callable[[str, Any], str]:
    """A deployment of one worker that answers the second time as given, with so many tokens of LMCache's.

    Args:
        deaf_for: the questions for which it does not ask LMCache, or LMCache has nothing.
    """
    asked: list[dict[str, Any]] = []

    def events(tokens: Sequence[tuple[str, float]]) -> str:
        bodies: list[dict[str, Any]] = [
            {"choices": [{"logprobs": {"tokens": [token], "token_logprobs": [value]}}]}
            for token, value in tokens
        ]
        bodies.append({"choices": [{"text": "", "finish_reason": "length"}]})
        bodies.append({"choices": [], "usage": {"prompt_tokens": 400}})
        return "".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + "data: [DONE]\n\n"

    def reply(url: str, body: Any) -> str:
        if url.endswith("/v1/completions"):
            asked.append(body)
            return events(answer("4", "1") if len(asked) == 1 else second)
        if url.endswith("/engine/flush_cache"):
            return '{"status": "ok"}'
        found = hits if len(asked) > deaf_for else 0
        return f'# TYPE {HITS} counter\n{HITS}{{engine="0"}} {found}.0\n'

    return reply


def probed(
    second: Sequence[tuple[str, float]],
    hits: int,
    monkeypatch: pytest.MonkeyPatch,
    lmcache_mode: str = "inproc",
    deaf_for: int = 1,
) -> CacheProbe:
    monkeypatch.setattr(cache_probe, "_SETTLE_S", 0.0)
    monkeypatch.setattr(cache_probe, "SERVER_HEARTBEAT_S", 0.0)
    deployment: DeploymentPlan = plan(1, mode="agg", gpus=(0,), lmcache={"mode": lmcache_mode})

    with served(one_worker(second, hits, deaf_for)):
        return asyncio.run(cache_probe.run(deployment, 1.2))


def test_hits_with_another_answer_are_told_from_hits_with_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    right = probed(answer("4", "1"), 256, monkeypatch)
    assert (right.hit_tokens, right.same_answer, right.prompt_tokens) == (256, True, 400)
    wrong = probed(answer("9", "9"), 256, monkeypatch)
    assert (wrong.hit_tokens, wrong.same_answer) == (256, False)


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ('{"error": {"message": "stream ended"}}', "broke off: stream ended"),
        ("{}", "broke off before its end"),
    ],
)
def test_a_completion_that_breaks_off_proves_nothing(last: str, why: str) -> None:
    deployment = plan(1, mode="agg", gpus=(0,))
    token = {"choices": [{"logprobs": {"tokens": ["4"], "token_logprobs": [-0.1]}, "finish_reason": None}]}
    stream = f"data: {json.dumps(token)}\n\ndata: {last}\n\ndata: [DONE]\n\n"
    with served(lambda _url, _body: stream), pytest.raises(NotReadyError, match=why):
        asyncio.run(cache_probe.run(deployment, 1.2))


def test_no_hits_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = probed(answer("4", "1"), 0, monkeypatch)
    assert (nothing.hit_tokens, nothing.prefix_cache_cleared) == (0, True)


@pytest.mark.parametrize(
    ("lmcache_mode", "deaf_for", "hits"), [("mp", 3, 256), ("mp", 4, 0), ("inproc", 3, 0)]
)
def test_a_server_gets_a_second_try(
    lmcache_mode: str, deaf_for: int, hits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two questions each; an engine that has missed a heartbeat does not ask its server for the first two."""
    probe = probed(answer("4", "1"), 256, monkeypatch, lmcache_mode, deaf_for)
    assert probe.hit_tokens == hits
