"""dynamoctl's commands, as the benchmarks run them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

LIMIT_S = 900.0


def run(environ: Mapping[str, str], *words: str) -> dict[str, Any]:
    """One command with --json; end with its error where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "dynamoctl", *words],
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    try:
        body: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        sys.exit(done.stderr)
    if not body["ok"]:
        sys.exit(f"{body['error']['message']}\n{body['error']['hint']}")
    return body


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Up's own words, and vLLM's with their `--`."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at:]
