"""Does LMCache give back what it was given? A new prompt is asked again once the engines forgot it.

Hits alone do not say so: LMCache counts them too where it gives back wrong values. So the prompt is a copying
exercise: numbers in its beginning, which LMCache keeps, and the first of them once more at its end. A model
goes on with the next ones, and is sure of it, if it sees what stood there.
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
from dynamoctl.monitoring.loopback_http import NoAnswerError
from dynamoctl.planner.connectors import SERVER_HEARTBEAT_S
from dynamoctl.planner.plan import DeploymentPlan

WRONG = "LMCache gives back another KV cache than it was given: answers would be wrong"
MEND = "serve without it (--no-lmcache), or with its server (--lmcache-mode mp)"

# The engines and LMCache store, and publish their counters, a step later.
_SETTLE_S = 0.5
_SETTLE_TRIES = 8
# The exercise: so many numbers, so many of them repeated, so many tokens asked for. The built-in model, with
# 135 million parameters, gave every token of the answer 80 % and more.
_NUMBERS = 36
_REPEATED = 12
_ANSWER_TOKENS = 8
# Tokens that the numbers have at least: two each, and a space.
_NUMBERS_TOKENS = 100
# Another order of additions does not turn a token round of which the model was so sure.
_SURE = math.log(0.7)


@dataclass(frozen=True)
class _Answer:
    """A completion: tokens of the prompt, seconds to the first token, tokens with their log probabilities."""

    prompt_tokens: int
    ttft_s: float
    tokens: tuple[tuple[str, float], ...]


async def run(plan: DeploymentPlan, chunks: float) -> CacheProbe:
    """Ask a new prompt until a worker that had it before has been asked again.

    An engine does not ask a server of LMCache's that was late for a heartbeat until the next one, so where
    nothing came back from a server, it is done once more.

    Args:
        chunks: how long it is, in chunks of LMCache's, which keeps whole ones only.

    Raises:
        NotReadyError: a completion failed.
    """
    probe = await _once(plan, chunks)
    if probe.hit_tokens or plan.lmcache != "mp":
        return probe
    await asyncio.sleep(2 * SERVER_HEARTBEAT_S)
    return await _once(plan, chunks)


async def _once(plan: DeploymentPlan, chunks: float) -> CacheProbe:
    size = int(next(one.value for one in plan.lmcache_settings if one.name == "chunk_size"))
    prompt = exercise(int(chunks * size))
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
    """A prompt of so many tokens or more; no two begin alike."""
    numbers = [str(random.randrange(1000, 10000)) for _ in range(_NUMBERS)]  # noqa: S311  (no secret)
    # A word is a token or little more.
    words = "one two three four five six seven eight " * max(0, math.ceil((tokens - _NUMBERS_TOKENS) / 8))
    return f"{uuid.uuid4().hex} {' '.join(numbers)} {words}{' '.join(numbers[:_REPEATED])}"


def same_answer(first: Sequence[tuple[str, float]], last: Sequence[tuple[str, float]]) -> bool | None:
    """Whether an answer is what it was, as far as the model was sure of it; None where it was not at all.

    Args:
        first, last: its tokens with their log probabilities.
    """
    sure = list(itertools.takewhile(lambda token: token[1] >= _SURE, first))
    if not sure:
        return None
    return [token for token, _ in sure] == [token for token, _ in last[: len(sure)]]


async def _hits_since(plan: DeploymentPlan, before: int) -> int:
    """How many hit tokens have come since, once there are any; 0 if none come."""
    for _ in range(_SETTLE_TRIES):
        await asyncio.sleep(_SETTLE_S)
        hits = await hit_tokens(plan) - before
        if hits:
            return hits
    return 0


async def hit_tokens(plan: DeploymentPlan) -> int:
    """How many tokens LMCache has given back, all workers together."""
    seen = await observe.snapshot(plan)
    return int(seen.cache["hit_tokens"]) if seen.cache else 0


async def clear_prefix_caches(plan: DeploymentPlan) -> bool:
    """Empty what the engines keep on the device, and nothing of LMCache's (as `clear_kv_blocks` would)."""

    async def clear(port: int) -> bool:
        try:
            answer = await loopback_http.ask("POST", f"http://127.0.0.1:{port}/engine/flush_cache", {})
            return answer.status == 200 and answer.json().get("status") == "ok"
        except (NoAnswerError, ValueError, AttributeError):
            return False

    return all(await asyncio.gather(*(clear(worker.ports["system"]) for worker in plan.workers)))


async def _ask(plan: DeploymentPlan, prompt: str) -> _Answer:
    """One streamed completion."""
    request = {
        "model": plan.model,
        "prompt": prompt,
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0,
        "logprobs": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, prompt_tokens = time.monotonic(), 0.0, 0
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
                if body.get("choices") and not first:
                    first = time.monotonic() - began
                prompt_tokens = (body.get("usage") or {}).get("prompt_tokens", prompt_tokens)
                for choice in body.get("choices") or []:
                    said = choice.get("logprobs") or {}
                    tokens += zip(said.get("tokens") or [], said.get("token_logprobs") or [], strict=False)
    except NoAnswerError as error:
        raise NotReadyError(f"no answer to a completion ({error})") from None
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
