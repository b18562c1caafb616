"""The deployments that `bench compare` and `bench tune` know by name. Pure."""

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
    # A router has something to choose from with two workers only.
    **{f"router-{mode}": {"mode": "agg", "workers": 2, "router_mode": mode} for mode in ROUTER_MODES},
}
_CHUNK = "chunk-"


@dataclass(frozen=True)
class Variant:
    """One of several deployments that are measured in turn.

    Attributes:
        flags: what it sets, by the spec's names; it wins over what all have in common.
        config: a TOML of its own; None: the one that all have in common.
    """

    name: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None


def parse(words: Sequence[str]) -> list[Variant]:
    """The variants of these names: a built-in one, `chunk-N`, or the path of a TOML.

    Raises:
        SpecError: there is no such variant, or one is named twice.
    """
    found = [_one(word) for word in words]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"the variant '{name}' is named twice", "use --repeat to measure each again")
    return found


def known() -> list[str]:
    """The names."""
    return [*_NAMED, f"{_CHUNK}N"]


def grid(chunk_sizes: Sequence[int], cpu_gbs: Sequence[float | None]) -> list[Variant]:
    """Each chunk size with each size of the cache; no size of the cache: as it is."""
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
        f"there is no variant '{word}'", f"{nearest(word, known())}\nor name a TOML, whose name ends in .toml"
    )
