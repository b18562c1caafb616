"""Time to the first token of long documents, three times over, one at a time: of anything that streams.

    python benchmarks/reuse_ttft.py ENDPOINT MODEL OUT.json

It asks what serves already, with vLLM's own offloading, too, which dynamoctl does not plan. Twelve documents
of 10,000 words (of one token each in the tokenizer of SmolLM2), in the same order in each pass: an engine
whose own cache holds half of them has lost each when it comes again. Units: seconds, tokens.
"""

from __future__ import annotations

import http.client
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

DOCUMENTS, TOKENS, PASSES = 12, 10_000, 3
NOUNS = (
    "time year people way day man thing woman life child world school state family student group country"
    " problem hand part place case week company system program question work government number night point"
    " home water room mother area money story fact month lot right study book eye job word business issue"
    " side kind head house service friend father power hour game line end member law car city name"
)


def first_token(endpoint: str, model: str, prompt: str) -> tuple[float, int]:
    """Seconds until the first event with a choice, and the prompt's tokens."""
    place = urlparse(endpoint)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens = time.perf_counter(), 0.0, 0
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"HTTP {answer.status}: {answer.read()[:300].decode(errors='replace')}")
    for line in answer:
        if line.startswith(b"data: {"):
            event = json.loads(line.removeprefix(b"data: "))
            if event.get("choices") and not first:
                first = time.perf_counter() - began
            tokens = (event.get("usage") or {}).get("prompt_tokens", tokens)
    return first, tokens


def main() -> None:
    """Warm up with a document that is not measured; then the passes."""
    endpoint, model, out = sys.argv[1:]
    dice = random.Random(11)
    documents = [" ".join(dice.choices(NOUNS.split(), k=TOKENS)) for _ in range(DOCUMENTS + 1)]
    first_token(endpoint, model, documents.pop())
    passes = []
    for number in range(PASSES):
        asked = [first_token(endpoint, model, document) for document in documents]
        seconds = [one for one, _ in asked]
        passes.append(
            {
                "ttft_s": [round(one, 4) for one in seconds],
                "median": round(statistics.median(seconds), 4),
                "mean": round(statistics.mean(seconds), 4),
                "tokens": sum(tokens for _, tokens in asked),
            }
        )
        print(f"pass {number + 1}: mean {passes[-1]['mean']} s, median {passes[-1]['median']} s", flush=True)
    Path(out).write_text(json.dumps(passes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
