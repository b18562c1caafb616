"""Time to the first token of long documents, three times over, one at a time: of anything that streams.

    python benchmarks/reuse_ttft.py ENDPOINT MODEL OUT.json

It asks what serves already, with vLLM's own offloading, too, which dynamoctl does not plan. Twelve documents
of 10,000 words (of one token each in the tokenizer of SmolLM2), in the same order in each pass: an engine
whose own cache holds half of them has lost each when it comes again. Units: seconds, tokens.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import httpx2
from mixed_load import TIMEOUT_S, Options, Record, Request, ask

DOCUMENTS, TOKENS, PASSES = 12, 10_000, 3
ANSWER_TOKENS = 8
NOUNS = (
    "time year people way day man thing woman life child world school state family student group country"
    " problem hand part place case week company system program question work government number night point"
    " home water room mother area money story fact month lot right study book eye job word business issue"
    " side kind head house service friend father power hour game line end member law car city name"
)


async def first_token(client: httpx2.AsyncClient, options: Options, document: str) -> tuple[float, int]:
    """Seconds until the first chunk with a choice, and the prompt's tokens."""
    record = Record(Request("document", 0.0, document, ANSWER_TOKENS), scheduled=0.0)
    await ask(client, options, record)
    if record.error:
        raise SystemExit(record.error)
    return record.chunks[0] - record.sent, record.prompt_tokens


async def measure(options: Options) -> list[dict[str, Any]]:
    """A document that is not measured, to warm up; then the passes."""
    dice = random.Random(11)
    documents = [" ".join(dice.choices(NOUNS.split(), k=TOKENS)) for _ in range(DOCUMENTS + 1)]
    passes = []
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
        await first_token(client, options, documents.pop())
        for number in range(PASSES):
            asked = [await first_token(client, options, document) for document in documents]
            seconds = [one for one, _ in asked]
            passes.append(
                {
                    "ttft_s": [round(one, 4) for one in seconds],
                    "median": round(statistics.median(seconds), 4),
                    "mean": round(statistics.mean(seconds), 4),
                    "tokens": sum(tokens for _, tokens in asked),
                }
            )
            print(
                f"pass {number + 1}: median {passes[-1]['median']} s, mean {passes[-1]['mean']} s", flush=True
            )
    return passes


def main() -> None:
    """Measure, and write what came of it."""
    url, model, out = sys.argv[1:]
    passes = asyncio.run(measure(Options(url=url, model=model)))
    Path(out).write_text(json.dumps(passes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
