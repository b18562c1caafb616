"""What one KV transfer takes, as decode's NIXL counts it: by its size, alone and many at once.

    python benchmarks/kv_transfers.py OUT.json -- UP'S WORDS [-- VLLM'S WORDS]

    python benchmarks/kv_transfers.py out.json -- disagg --gpus 0,0 --model DIR -- --enforce-eager

One completion after the other, with prompts of PROMPTS words that nobody has seen: after each, what decode's
counters have grown by. The first one is told apart: it opens the peer's memory. Then AT_ONCE of one length
together, so that prefill computes while decode reads. Units: bytes, seconds, 10**9 bytes a second.

NIXL counts a transfer from its posting until the engine asks and hears that it is done; `post_s` is the
posting alone. So an engine that asks seldom makes a transfer look slow.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from command import run, split
from dynamoctl.host import gpus
from topologies import counter

PROMPTS = (200, 200, 200, 1000, 1000, 1000, 7000, 7000, 7000)
AT_ONCE, AT_ONCE_WORDS = 16, 1000
PATIENCE_S = 300.0
COUNTERS = {
    "transfers": "vllm:nixl_xfer_time_seconds_count",
    "xfer_s": "vllm:nixl_xfer_time_seconds_sum",
    "post_s": "vllm:nixl_post_time_seconds_sum",
    "bytes": "vllm:nixl_bytes_transferred_sum",
    "descriptors": "vllm:nixl_num_descriptors_sum",
}


def completion(endpoint: str, model: str, prompt: str) -> None:
    """Ask for one token."""
    body = {"model": model, "prompt": prompt, "max_tokens": 2, "temperature": 0}
    request = urllib.request.Request(
        f"{endpoint.removesuffix('/v1')}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] > 0


def prompt(number: int, words: int) -> str:
    """A prompt that shares no block with any other."""
    return " ".join(f"{number}" if place % 7 == 0 else "sea" for place in range(words))


def counts(port: int) -> dict[str, float]:
    """What decode has counted so far."""
    return {key: counter(port, name) for key, name in COUNTERS.items()}


def grown(port: int, before: dict[str, float], transfers: int) -> dict[str, Any]:
    """What the counters have grown by, once they have so many transfers more."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := counts(port))["transfers"] < before["transfers"] + transfers:
        if time.monotonic() > deadline:
            sys.exit(f"{transfers} transfers not counted: {before} -> {now}")
        time.sleep(0.2)
    found: dict[str, Any] = {key: now[key] - before[key] for key in now}
    found["gb_per_s"] = round(found["bytes"] / found["xfer_s"] / 1e9, 3)
    return found


def main() -> None:
    """Up, the requests, down."""
    out, *rest = sys.argv[1:]
    own, engine = split(rest[1:])
    body: dict[str, Any] = {"up": rest[1:], "gpus": [gpu.name for gpu in gpus.list_gpus()]}
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "DYNAMOCTL_HOME": home}
        up = run(environ, "up", *own, "--json", *engine)
        try:
            plan = json.loads((Path(home) / "deployments/default/plan.json").read_text())["plan"]
            port = next(unit["ports"]["system"] for unit in plan["units"] if unit["role"] == "decode")
            body["alone"] = []
            for number, words in enumerate(PROMPTS):
                before = counts(port)
                completion(up["endpoint"], up["model"], prompt(number, words))
                body["alone"].append({"words": words, **grown(port, before, 1)})
                print(body["alone"][-1], flush=True)
            before = counts(port)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for future in [
                    pool.submit(completion, up["endpoint"], up["model"], prompt(100 + one, AT_ONCE_WORDS))
                    for one in range(AT_ONCE)
                ]:
                    future.result()
            body["at_once"] = grown(port, before, AT_ONCE)
            print(body["at_once"], flush=True)
            body["by_process_mib"] = gpus.memory_by_process()
            logs = Path(home) / "deployments/default/logs"
            body["ucx"] = sorted(
                {
                    re.sub(r"^.*?\[[^ ]*:\d+:\d+\]\s*", "", line).strip()
                    for log in logs.glob("decode-*.log")
                    for line in log.read_text(errors="replace").splitlines()
                    if "cfg#" in line or "cuda_ipc" in line
                }
            )[:300]
        finally:
            run(environ, "down", "--json")
    Path(out).write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
