"""LMCache's settings from files: LMCache's YAML (LMCACHE_CONFIG_FILE), and `[lmcache]` in dynamoctl's TOML.

LMCache's variables override its file. dynamoctl turns the settings of both files into variables, so that a
plan is complete and all values are checked in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest, path_of
from dynamoctl.lmcache import environment
from dynamoctl.lmcache.environment import PREFIX


def read(path: str) -> dict[str, str]:
    """The settings in LMCache's YAML file, as LMCache's variables.

    Raises:
        SpecError: the file cannot be read, is not a YAML mapping, or has an unknown key or a value that
            LMCache would drop.
    """
    import yaml

    where = f"LMCACHE_CONFIG_FILE={path}"
    try:
        body = yaml.safe_load(path_of(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{where} cannot be read: {error.strerror}", "fix the path, or unset it") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date or a number that is none
        raise SpecError(f"{where} is not YAML", "fix it: one KEY: VALUE per line") from None
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise SpecError(f"{where} holds no settings", "fix it: one KEY: VALUE per line")
    variables: dict[str, str] = {}
    for key, value in body.items():
        if not is_key(str(key)):
            raise SpecError(
                f"LMCache has no setting {key} (in {path}) and would silently ignore it",
                nearest(str(key), environment.KEYS),
            )
        if value is not None:
            name = variable(str(key))
            variables[name] = environment.check(name, setting(str(key), value))
    return variables


def is_key(name: str) -> bool:
    """Whether LMCache has a setting of this name."""
    return name in environment.KEYS


def variable(key: str) -> str:
    """The environment variable of a key."""
    return PREFIX + key.upper()


def setting(key: str, value: Any) -> str:
    """The value of a key, in the form that LMCache reads from a variable.

    Raises:
        SpecError: it has none.
    """
    try:
        return as_text(value)
    except (TypeError, ValueError, RecursionError):
        raise SpecError(
            f"lmcache.{key} has a value that LMCache cannot read",
            "give text, numbers, true or false, or lists and tables of them",
        ) from None


def as_text(value: Any) -> str:
    """A value from YAML or TOML, in the form that LMCache reads from a variable."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return ",".join(as_text(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)
