"""Write what the installed engine reads of LMCache's settings into dynamoctl/lmcache/tables.json.

python docs/lmcache_tables.py            write the entry of the installed LMCache; the others stay
python docs/lmcache_tables.py --check    exit 1 if its entry is out of date

LMCache's own configuration classes and registries are asked. The names of variables that are read elsewhere
are the string constants in the sources of LMCache, vLLM and Dynamo.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parents[1] / "dynamoctl" / "lmcache" / "tables.json"
PREFIX = "LMCACHE_"
PACKAGES = ("lmcache", "vllm", "dynamo")

_KINDS = {
    "int": "int",
    "float": "float",
    "_to_bool": "bool",
    "_to_int_list": "list of int",
    "_to_float_list": "list of float",
    "_to_str_list": "list of str",
    "str": "str",
    "_parse_local_disk": "str",
    "_to_hidden_states_retrieve_mode": "choice",
}


def entry() -> dict[str, Any]:
    """What the installed packages read."""
    from lmcache.v1 import config
    from lmcache.v1.cache_controller import config as controller
    from lmcache.v1.storage_backend.cache_policy import POLICY_MAPPING

    definitions, aliases = config._CONFIG_DEFINITIONS, config._CONFIG_ALIASES
    keys = {key: _kind(one["env_converter"]) for key, one in definitions.items()}
    honoured = {old: new for old in aliases if (new := _honoured(old)) and old not in definitions}
    return {
        "keys": {
            kind: sorted(key for key, of_key in keys.items() if of_key == kind)
            for kind in sorted(set(keys.values()))
        },
        "empty is unset": sorted(key for key, one in definitions.items() if _empty_is_unset(one)),
        "deprecated": dict(sorted(honoured.items())),
        "renamed": {
            old: new for old, new in sorted(aliases.items()) if old not in honoured and old not in definitions
        },
        "controller": sorted(controller._CONTROLLER_CONFIG_DEFINITIONS),
        "variables": sorted(_variables() - {PREFIX + key.upper() for key in keys}),
        "schemes": _schemes(),
        "adapters": _adapters(),
        "policies": {"inproc": sorted(POLICY_MAPPING), "mp": _server_policies()},
    }


def _kind(converter: Callable[[Any], Any]) -> str:
    """The kind of a setting, by what LMCache makes of its text."""
    name = getattr(converter, "__name__", "")
    if name in _KINDS:
        return _KINDS[name]
    if converter('{"a": 1}') == {"a": 1}:
        return "json"
    assert converter("a,b") == ["a,b"], f"a converter of an unknown kind: {name}"
    return "list of one str"


def _empty_is_unset(definition: dict[str, Any]) -> bool:
    """Whether LMCache makes of an empty variable what it takes without the variable, or nothing at all."""
    default = definition["default"]
    try:
        value = definition["env_converter"]("")
    except ValueError:
        value = None  # dropped with a warning
    return bool(value == default) or (default is None and not value)


def _honoured(old: str) -> str:
    """The setting that LMCache takes a deprecated name for; empty if it ignores the name."""
    from lmcache.v1 import config, config_base

    resolved = config_base._resolve_config_aliases(
        {old: "1"}, "", config._CONFIG_DEFINITIONS, config._CONFIG_ALIASES, config._DEPRECATED_CONFIGS
    )
    return next((key for key in resolved if key in config._CONFIG_DEFINITIONS), "")


def _variables() -> set[str]:
    """The names that are read somewhere: all but those that are only given to a child process."""
    return {
        name
        for package in PACKAGES
        for file in _sources(package)
        for name in _names(file.read_text(encoding="utf-8", errors="replace"))
    }


def _sources(package: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        yield from Path(folder).rglob("*.py")


def _names(source: str) -> set[str]:
    if PREFIX not in source:
        return set()
    tree = ast.parse(source)
    given = {
        id(node.slice)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and id(node) not in given
        and isinstance(node.value, str)
        and re.fullmatch(rf"{PREFIX}[A-Z0-9_]*[A-Z0-9]", node.value)
    }


def _schemes() -> list[str]:
    """The schemes of remote URLs for which LMCache, in process, has a connector."""
    from lmcache.v1.storage_backend import connector
    from lmcache.v1.utils.subclass_discovery import discover_subclasses

    found = discover_subclasses(
        connector.__name__,
        connector.ConnectorAdapter,
        module_filter=lambda name: not name.startswith("_") and name.endswith("_adapter"),
        require_defined_in_module=False,
    )
    adapters = [kind() for kind in found]
    sources = (path.read_text(encoding="utf-8") for path in Path(connector.__path__[0]).glob("*_adapter.py"))
    named = {scheme for source in sources for scheme in re.findall(r'"([a-z][a-z0-9-]*)://', source)}
    return sorted(name for name in named if any(adapter.can_parse(f"{name}://x") for adapter in adapters))


def _adapters() -> list[str]:
    """The types that the cache server's --l2-adapter takes."""
    from lmcache.v1.distributed.l2_adapters import config

    return sorted(config.get_registered_l2_adapter_types())


def _server_policies() -> list[str]:
    """The eviction policies that the cache server's command line takes."""
    from lmcache.v1.distributed import config

    parser = config.add_storage_manager_args(argparse.ArgumentParser())
    return next(list(one.choices) for one in parser._actions if one.dest == "eviction_policy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is out of date")
    options = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):  # the import prints a banner
        installed = entry()
    tables = json.loads(TABLES.read_text(encoding="utf-8")) if TABLES.exists() else {}
    of_version = version("lmcache")
    if options.check:
        if tables.get(of_version) == installed:
            return 0
        print(f"{TABLES.name} is out of date for lmcache {of_version}: run python docs/lmcache_tables.py")
        return 1
    tables[of_version] = installed
    TABLES.write_text(json.dumps(dict(sorted(tables.items())), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
