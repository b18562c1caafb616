#!/usr/bin/env python3
"""Ask a running deployment a question. Needs Python alone.

examples/ask.py                                        the built-in question, port 8000
examples/ask.py "Who wrote Faust?" --endpoint http://127.0.0.1:8190
head -c 5000 LICENSE | examples/ask.py -               a long question from stdin
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

# The endpoint is this machine's own: no proxy from the environment.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """GET, or POST where there is a body; the JSON that comes back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=timeout_s) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def ask(endpoint: str, model: str | None, question: str, max_tokens: int, timeout_s: float) -> str:
    """The answer, with a line on stderr that says what it took."""
    if model is None:
        models = call(f"{endpoint}/v1/models", None, timeout_s)["data"]
        if not models:
            raise SystemExit(f"{endpoint} serves no model: is it ready? see: dynamoctl status")
        model = models[0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    began = time.monotonic()
    answer = call(f"{endpoint}/v1/chat/completions", body, timeout_s)
    took = time.monotonic() - began
    used = answer["usage"]
    print(
        f"{model}: {used['prompt_tokens']} tokens in, {used['completion_tokens']} out, {took:.2f} s",
        file=sys.stderr,
    )
    return str(answer["choices"][0]["message"]["content"])


def main() -> int:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("question", nargs="?", default="What is the capital of France?", help="- reads stdin")
    parser.add_argument("--endpoint", default="http://127.0.0.1:8000", help="as `dynamoctl up` prints it")
    parser.add_argument("--model", help="default: the first that the endpoint serves")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds")
    options = parser.parse_args()
    question = sys.stdin.read() if options.question == "-" else options.question
    endpoint = options.endpoint.rstrip("/").removesuffix("/v1")
    try:
        print(ask(endpoint, options.model, question, options.max_tokens, options.timeout))
    except urllib.error.HTTPError as error:
        print(f"HTTP {error.code} from {endpoint}: {error.read().decode()[:500]}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"no answer from {endpoint}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
