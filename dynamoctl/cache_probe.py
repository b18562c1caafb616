"""Does LMCache give back what it was given? A new prompt is asked again once the engines forgot it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import httpx2

from dynamoctl import observe, probes
from dynamoctl.errors import NotReadyError
from dynamoctl.planner.plan import DeploymentPlan

# The engines and LMCache store, and publish their counters, a step later.
_SETTLE_S = 0.5
_SETTLE_TRIES = 8


@dataclass(frozen=True)
class Probe:
    """What one prompt, asked more than once, did.

    Attributes:
        prompt_tokens: its length.
        hit_tokens: how many of them LMCache gave back the last time.
        ttft_first_s, ttft_last_s: seconds to the first token.
        prefix_cache_cleared: whether the engines' own prefix caches were emptied in between, so that only
            LMCache could answer.
    """

    prompt_tokens: int
    hit_tokens: int
    ttft_first_s: float
    ttft_last_s: float
    prefix_cache_cleared: bool


async def run(http: httpx2.AsyncClient, plan: DeploymentPlan, chunks: float) -> Probe:
    """Ask a new prompt until a worker that had it before has been asked again.

    Args:
        chunks: how long it is, in chunks of LMCache's, which keeps whole ones only.

    Raises:
        NotReadyError: a completion failed.
    """
    size = int(next(one.value for one in plan.lmcache_settings if one.name == "chunk_size"))
    # A word is a token or little more; no two probes begin alike.
    prompt = f"{uuid.uuid4().hex} " + "one two three four five six seven eight " * int(chunks * size / 8 + 1)
    tokens, first = await _ask(http, plan, prompt)
    caching = sum(unit.role in ("agg", "prefill") for unit in plan.workers)
    cleared, last, hits = False, first, 0
    for _ in range(caching):
        await asyncio.sleep(_SETTLE_S)
        cleared = await clear_prefix_caches(http, plan)
        before = await hit_tokens(http, plan)
        tokens, last = await _ask(http, plan, prompt)
        for _ in range(_SETTLE_TRIES):
            await asyncio.sleep(_SETTLE_S)
            hits = await hit_tokens(http, plan) - before
            if hits:
                return Probe(tokens, hits, first, last, cleared)
    return Probe(tokens, 0, first, last, cleared)


async def hit_tokens(http: httpx2.AsyncClient, plan: DeploymentPlan) -> int:
    """How many tokens LMCache has given back, all workers together."""
    seen = await observe.snapshot(http, plan)
    return int(seen.cache["hit_tokens"]) if seen.cache else 0


async def clear_prefix_caches(http: httpx2.AsyncClient, plan: DeploymentPlan) -> bool:
    """Empty what the engines keep on the device, and nothing of LMCache's (as `clear_kv_blocks` would)."""

    async def clear(port: int) -> bool:
        try:
            answer = await http.post(f"http://127.0.0.1:{port}/engine/flush_cache", json={})
            return answer.status_code == 200 and answer.json().get("status") == "ok"
        except (httpx2.HTTPError, ValueError, AttributeError):
            return False

    return all(await asyncio.gather(*(clear(worker.ports["system"]) for worker in plan.workers)))


async def _ask(http: httpx2.AsyncClient, plan: DeploymentPlan, prompt: str) -> tuple[int, float]:
    """One streamed completion: (tokens of the prompt, seconds to the first token)."""
    request = {
        "model": plan.model,
        "prompt": prompt,
        "max_tokens": 2,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens = time.monotonic(), 0.0, 0
    try:
        async with http.stream(
            "POST", f"{plan.endpoint}/v1/completions", json=request, timeout=probes.COMPLETION_TIMEOUT_S
        ) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode(errors="replace")[:200]
                raise NotReadyError(f"a completion got HTTP {answer.status_code}: {text}")
            async for line in answer.aiter_lines():
                body = _event(line)
                if body.get("choices") and not first:
                    first = time.monotonic() - began
                tokens = (body.get("usage") or {}).get("prompt_tokens", tokens)
    except httpx2.HTTPError as error:
        raise NotReadyError(f"no answer to a completion ({type(error).__name__})") from None
    return tokens, first


def _event(line: str) -> dict[str, Any]:
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return {}
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
