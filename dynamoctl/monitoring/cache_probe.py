"""Check that LMCache returns what it stored: send a new prompt, clear the engines' caches, send it again.

Hit counters are not enough: LMCache also counts hits if it returns wrong values. So the prompt is a copying
exercise: it begins with numbers, which LMCache stores, and ends with the first of them again. A model
that sees the right KV cache continues with the next numbers, with high probability.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamoctl import policies
from dynamoctl.answers.cache import CacheProbe
from dynamoctl.errors import NotReadyError
from dynamoctl.monitoring import loopback_http, observe
from dynamoctl.monitoring.events import error_in
from dynamoctl.monitoring.loopback_http import NoAnswerError
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.planner.plan import DeploymentPlan

WRONG = "LMCache gives back another KV cache than it was given: answers would be wrong"
FIX = "serve without it (--no-lmcache), or with its server (--lmcache-mode mp)"

# The engines and LMCache store the KV cache, and publish their counters, one step later.
_SETTLE_S = 0.5
_SETTLE_TRIES = 8
# The exercise: numbers in the prompt, numbers repeated at its end, and tokens to generate. The built-in
# model, with 135 million parameters, gave every token of the answer a probability of at least 80 %.
_NUMBERS = 36
_REPEATED = 12
_ANSWER_TOKENS = 8
# Lower bound for the tokens of the numbers: two for each number, and a space.
_NUMBERS_TOKENS = 100
# Log probability from which on another order of floating-point additions does not change a token.
_SURE = math.log(0.7)


@dataclass(frozen=True)
class _Answer:
    """A completion: prompt length in tokens, seconds to the first token, tokens with log probabilities."""

    prompt_tokens: int
    ttft_s: float
    tokens: tuple[tuple[str, float], ...]


async def run(plan: DeploymentPlan, chunks: float) -> CacheProbe:
    """Send a new prompt until a worker that had it before gets it again.

    An engine that missed a heartbeat of LMCache's server does not use the server until the next one. So if
    the server returned nothing, the probe runs a second time.

    Args:
        chunks: length of the prompt in LMCache chunks; LMCache stores whole chunks only.

    Raises:
        NotReadyError: a completion failed.
    """
    probe = await _once(plan, chunks)
    if probe.hit_tokens or plan.lmcache != "mp":
        return probe
    await asyncio.sleep(2 * SERVER_HEARTBEAT_S)
    return await _once(plan, chunks)


async def _once(plan: DeploymentPlan, chunks: float) -> CacheProbe:
    chunk_size = next(setting.value for setting in plan.lmcache_settings if setting.name == "chunk_size")
    prompt = exercise(int(chunks * int(chunk_size)))
    first = last = await _ask(plan, prompt)
    caching = sum(unit.role in ("agg", "prefill") for unit in plan.workers)
    cleared, hits = False, 0
    for _ in range(caching):
        await asyncio.sleep(_SETTLE_S)
        cleared = await clear_prefix_caches(plan)
        before = await hit_tokens(plan)
        last = await _ask(plan, prompt)
        hits = await _hits_since(plan, before)
        if hits:
            break
    same = same_answer(first.tokens, last.tokens)
    return CacheProbe(last.prompt_tokens, hits, first.ttft_s, last.ttft_s, cleared, same)


def exercise(tokens: int) -> str:
    """A copying exercise of at least `tokens` tokens; no two prompts have the same prefix."""
    numbers = [str(random.randrange(1000, 10000)) for _ in range(_NUMBERS)]  # noqa: S311  (no secret)
    # A word is about one token.
    words = "one two three four five six seven eight " * max(0, math.ceil((tokens - _NUMBERS_TOKENS) / 8))
    return f"{uuid.uuid4().hex} {' '.join(numbers)} {words}{' '.join(numbers[:_REPEATED])}"


def same_answer(first: Sequence[tuple[str, float]], last: Sequence[tuple[str, float]]) -> bool | None:
    """Whether the answers are equal up to the first token of which the model was not sure.

    Args:
        first, last: tokens of the answers, with their log probabilities.

    Returns:
        None if the model was not sure of the first token.
    """
    sure = list(itertools.takewhile(lambda token: token[1] >= _SURE, first))
    if not sure:
        return None
    return [token for token, _ in sure] == [token for token, _ in last[: len(sure)]]


async def _hits_since(plan: DeploymentPlan, before: int) -> int:
    """Wait for an increase of the hit tokens; return the increase, or 0 if none came in time."""
    for _ in range(_SETTLE_TRIES):
        await asyncio.sleep(_SETTLE_S)
        hits = await hit_tokens(plan) - before
        if hits:
            return hits
    return 0


async def hit_tokens(plan: DeploymentPlan) -> int:
    """Tokens that LMCache has returned so far, over all workers."""
    snapshot = await observe.snapshot(plan)
    return int(snapshot.cache["hit_tokens"]) if snapshot.cache else 0


async def clear_prefix_caches(plan: DeploymentPlan) -> bool:
    """Clear the engines' prefix caches, but not LMCache (which `clear_kv_blocks` would clear too).

    Returns:
        Whether every worker confirmed.
    """

    async def clear(port: int) -> bool:
        try:
            answer = await loopback_http.ask("POST", f"http://127.0.0.1:{port}/engine/flush_cache", {})
            return answer.status == 200 and answer.json().get("status") == "ok"
        except (NoAnswerError, ValueError, AttributeError):
            return False

    return all(await asyncio.gather(*(clear(worker.ports["system"]) for worker in plan.workers)))


async def _ask(plan: DeploymentPlan, prompt: str) -> _Answer:
    """Request one streamed completion.

    Raises:
        NotReadyError: it failed.
    """
    request = {
        "model": plan.model,
        "prompt": prompt,
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0,
        "logprobs": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, prompt_tokens, finished = time.monotonic(), 0.0, 0, False
    tokens: list[tuple[str, float]] = []
    try:
        async with loopback_http.stream(
            "POST", f"{plan.endpoint}/v1/completions", request, policies.COMPLETION_TIMEOUT_S
        ) as answer:
            if answer.status != 200:
                text = "\n".join([line async for line in answer.lines()])[:200]
                raise NotReadyError(f"a completion got HTTP {answer.status}: {text}")
            async for line in answer.lines():
                body = _event(line)
                if error := error_in(body):
                    raise NotReadyError(f"a completion broke off: {error}")
                if body.get("choices") and not first:
                    first = time.monotonic() - began
                prompt_tokens = (body.get("usage") or {}).get("prompt_tokens", prompt_tokens)
                for choice in body.get("choices") or []:
                    finished = finished or bool(choice.get("finish_reason"))
                    logprobs = choice.get("logprobs") or {}
                    values = logprobs.get("token_logprobs") or []
                    tokens += zip(logprobs.get("tokens") or [], values, strict=False)
    except NoAnswerError as failure:
        raise NotReadyError(f"no answer to a completion ({failure})") from None
    if not finished:
        raise NotReadyError("a completion broke off before its end")
    return _Answer(prompt_tokens, first, tuple(tokens))


def _event(line: str) -> dict[str, Any]:
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return {}
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
