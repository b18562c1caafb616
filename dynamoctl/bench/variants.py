"""The variants of a deployment that `bench compare` and `bench tune` measure. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamoctl.config.choices import ROUTER_MODES
from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest

_NAMED: Mapping[str, Mapping[str, Any]] = {
    "agg": {"mode": "agg"},
    "agg-no-lmcache": {"mode": "agg", "lmcache.enabled": False},
    "agg-inproc": {"mode": "agg", "lmcache.mode": "inproc"},
    "agg-mp": {"mode": "agg", "lmcache.mode": "mp"},
    "disagg": {"mode": "disagg"},
    "disagg-no-lmcache": {"mode": "disagg", "lmcache.enabled": False},
    # Two workers, because a router with one worker has no choice.
    **{f"router-{mode}": {"mode": "agg", "workers": 2, "router_mode": mode} for mode in ROUTER_MODES},
}
_CHUNK = "chunk-"


@dataclass(frozen=True)
class Variant:
    """One of several deployments that are measured in turn.

    Attributes:
        name: its name in the results.
        flags: its settings, by the spec's names; they override the settings that all variants share.
        config: its own TOML file; None for the one that all variants share.
    """

    name: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None


def parse(words: Sequence[str]) -> list[Variant]:
    """The variants of these names: a built-in name, `chunk-N`, or the path of a TOML file.

    Raises:
        SpecError: there is no such variant, or one is named twice.
    """
    variants = [_one(word) for word in words]
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(
                f"the variant '{name}' is named twice", "use --repeat to measure each variant again"
            )
    return variants


def known() -> list[str]:
    """The names of the built-in variants."""
    return [*_NAMED, f"{_CHUNK}N"]


def grid(chunk_sizes: Sequence[int], cpu_gbs: Sequence[float | None]) -> list[Variant]:
    """The variants for all combinations of chunk sizes and cache sizes.

    Args:
        chunk_sizes: in tokens.
        cpu_gbs: cache sizes in GiB; None, or an empty sequence, leaves the size unchanged.
    """
    return [
        Variant(
            f"{_CHUNK}{chunk}" + (f"-{gib:g}gib" if gib is not None else ""),
            {"lmcache.chunk_size": chunk, **({"lmcache.cpu_gb": gib} if gib is not None else {})},
        )
        for gib in (cpu_gbs or (None,))
        for chunk in chunk_sizes
    ]


def _one(word: str) -> Variant:
    if word.endswith(".toml"):
        return Variant(Path(word).stem, config=Path(word))
    if word in _NAMED:
        return Variant(word, _NAMED[word])
    size = word.removeprefix(_CHUNK)
    if size != word and size.isdecimal() and int(size) > 0:
        return Variant(word, {"mode": "agg", "lmcache.chunk_size": int(size)})
    raise SpecError(
        f"there is no variant '{word}'", f"{nearest(word, known())}\nor give the path of a .toml file"
    )
