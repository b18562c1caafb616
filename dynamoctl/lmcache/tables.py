"""What LMCache, and vLLM and Dynamo beside it, read: the names of `tables.json`, of all tested versions.

`python docs/lmcache_tables.py` asks the installed packages and writes that file; a test compares the two.
A name that one tested version has is known: an installation may have either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

PREFIX = "LMCACHE_"

_VERSIONS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("tables.json").read_text(encoding="utf-8")
)


def _names(table: str) -> frozenset[str]:
    return frozenset(name for one in _VERSIONS.values() for name in one[table])


def _pairs(table: str) -> dict[str, str]:
    return {old: new for one in _VERSIONS.values() for old, new in one[table].items()}


# Setting -> the kind of its value.
KEYS: dict[str, str] = {
    key: kind for one in _VERSIONS.values() for kind, keys in one["keys"].items() for key in keys
}
# Settings whose variable may be empty: LMCache then takes what it takes without the variable.
EMPTY_IS_UNSET = _names("empty is unset")
# An old name of a setting that LMCache still takes -> its name now.
DEPRECATED = _pairs("deprecated")
# An old name that LMCache ignores -> its name now.
RENAMED = _pairs("renamed")
# Settings of LMCache's controller, which has variables of its own.
CONTROLLER_KEYS = _names("controller")
# Variables that are read outside of a configuration.
VARIABLES = _names("variables")
# Schemes of remote URLs for LMCache in process; types of the cache server's adapters.
SCHEMES = _names("schemes")
ADAPTERS = _names("adapters")


def policies(mode: Literal["inproc", "mp"], version: str) -> list[str]:
    """The eviction policies of a version; those of the newest one, if this version was not tested."""
    known = _VERSIONS.get(version) or list(_VERSIONS.values())[-1]
    names: list[str] = known["policies"][mode]
    return names
