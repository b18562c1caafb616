"""The JSON schema of `dynamoctl.toml`, for editors; from the models of `spec` and `lmcache_spec`.

It says which keys there are, their types, limits and choices. What one key says about another, and what needs
the host, is left to `up`.

It keeps to draft 7 and has no `$ref`: Taplo, the language server behind Even Better TOML, reads all of that.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from dynamoctl.config.choices import CONFIG_NAME
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.config.types import OWN_FIELDS
from dynamoctl.humanize import attributes
from dynamoctl.lmcache import names, tables

SCHEMA_NAME = "dynamoctl.schema.json"

_STRING = {"type": "string"}
# What LMCache reads from text, by the kind of its setting (`lmcache.tables`).
_TEXT: dict[str, dict[str, Any]] = {
    "int": {"type": "string", "pattern": r"^\s*[+-]?[0-9]+(_[0-9]+)*\s*$"},
    "bool": {"type": "string", "pattern": r"^\s*([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[01])\s*$"},
    "choice": {"enum": ["prefix_strict", "skip_missing_chunks", "legacy"]},
}
_EMPTY = {"type": "string", "pattern": r"^\s*$"}
# By LMCache's own name, a tier can be turned off.
_OFF: dict[str, dict[str, Any]] = {
    "disk": _EMPTY,
    "remote": _EMPTY,
    "gds": _EMPTY,
    "disk_gb": {"anyOf": [{"const": 0}, {"type": "string", "pattern": r"^\s*(0+(\.0+)?\s*\w*)?\s*$"}]},
}
# What a TOML may say in its own types besides.
_TYPED: dict[str, list[dict[str, Any]]] = {
    "int": [{"type": "integer"}],
    "float": [{"type": "number"}],
    "bool": [{"type": "boolean"}, {"enum": [0, 1]}],
    "list of int": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}],
    "list of float": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}],
    "list of str": [{"type": "array", "items": _STRING}],
    "list of one str": [{"type": "array", "items": _STRING, "maxItems": 1}],
    "json": [{"type": "object"}],
    "str": [{"type": "number"}, {"type": "boolean"}],
    "choice": [],
}


def schema() -> dict[str, Any]:
    """The whole, as JSON has it."""
    pydantic_s = DeploymentSpec.model_json_schema()
    (cache,) = pydantic_s["$defs"].values()
    keys = _keys(pydantic_s, DeploymentSpec)
    keys["lmcache"] = _table(_keys(cache, LMCacheSpec), (LMCacheSpec.__doc__ or "").partition("\n")[0])
    _add_lmcaches_own(keys["lmcache"]["properties"])
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": CONFIG_NAME,
        **_table(keys, "One deployment of dynamoctl, as `up` reads it."),
    }


def text() -> str:
    """The schema as the text of a file."""
    return json.dumps(schema(), indent=2) + "\n"


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What each key of a model means, for people: from its docstring; empty where that says nothing."""
    said = attributes(model)
    return {
        name: said.get(name, "").replace("None:", "Unset:").replace(", or None.", ".")
        for name in model.model_fields
    }


def _table(keys: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "additionalProperties": False,
        "properties": keys,
    }


def _keys(pydantic_s: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    words = meanings(model)
    return {
        name: {"description": words[name], **_in_toml(one)} for name, one in pydantic_s["properties"].items()
    }


def _in_toml(one: dict[str, Any]) -> dict[str, Any]:
    """A key without what TOML cannot say (null), and without pydantic's title, which is its name again."""
    kept = {name: value for name, value in one.items() if name != "title"}
    if kept.get("default", ...) is None:
        del kept["default"]
    ways = [way for way in kept.pop("anyOf", []) if way != {"type": "null"}]
    if len(ways) == 1:
        return {**ways[0], **kept}
    return {"anyOf": ways, **kept} if ways else kept


def _add_lmcaches_own(cache: dict[str, Any]) -> None:
    """LMCache's own settings: as keys of `[lmcache]`, and as variables in `[lmcache.env]`."""
    variables: dict[str, Any] = dict.fromkeys(sorted(names.PROCESS_VARIABLES), _STRING)
    own: dict[str, Any] = {}
    for key, kind in sorted(tables.KEYS.items()):
        name = tables.PREFIX + key.upper()
        field = OWN_FIELDS.get(name)
        if field:
            # The same setting by its other name.
            own[key] = {**cache[field], "description": f"LMCache's name for `{field}`."}
            own[key].pop("default", None)
            if field in _OFF:
                own[key] = _or(own[key], _OFF[field])
            continue
        text = _TEXT.get(kind, _STRING)
        if key in tables.EMPTY_IS_UNSET and text != _STRING:
            text = {"anyOf": [text, _EMPTY]}
        variables[name] = text
        own[key] = {"description": f"LMCache setting {name}.", "anyOf": [*_TYPED[kind], text]}
    for old, key in tables.DEPRECATED.items():
        now = tables.PREFIX + key.upper()
        own[old] = {**own[key], "description": f"Deprecated: LMCache setting {now}."}
        variables[tables.PREFIX + old.upper()] = variables[now]
    for key, one in own.items():
        cache.setdefault(key, one)
    env = cache["env"]
    del env["propertyNames"]
    env["properties"] = variables
    encoder = "|".join(sorted(name.removeprefix(names.ENCODER_PREFIX) for name in names.ENCODER_VARIABLES))
    env["patternProperties"] = {f"^{names.ENCODER_PREFIX}({encoder})$": _STRING}
    env["additionalProperties"] = False


def _or(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A key that may have another form as well."""
    said = {name: value for name, value in one.items() if name in ("description", "examples")}
    rest = {name: value for name, value in one.items() if name not in said}
    return {**said, "anyOf": [*rest.get("anyOf", [rest]), other]}
