"""Sets of the engine's versions that were run together."""

from __future__ import annotations

# What dynamoctl installs, and so what a plan is written for.
INSTALLED = {"ai-dynamo": "1.4.2", "vllm": "0.26.0", "torch": "2.11.0", "nixl": "1.3.2", "lmcache": "0.5.3"}
KNOWN_SETS = (
    INSTALLED,
    {"ai-dynamo": "1.6.1", "vllm": "0.31.0", "torch": "2.13.0", "nixl": "1.4.1", "lmcache": "0.5.6"},
)
