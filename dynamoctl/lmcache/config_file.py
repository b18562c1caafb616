"""LMCache's settings as a file has them: its own YAML (LMCACHE_CONFIG_FILE), or `[lmcache]` in our TOML.

LMCache takes its variables over its file. We turn both into variables, so that a plan says all by itself and
each value is checked in one way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest
from dynamoctl.lmcache import environment
from dynamoctl.lmcache.environment import PREFIX


def read(path: str) -> dict[str, str]:
    """The settings in a YAML file of LMCache's, as its variables.

    Raises:
        SpecError: no such file, no settings in it, an unknown key, or a value that LMCache would drop.
    """
    import yaml

    where = f"LMCACHE_CONFIG_FILE={path}"
    try:
        body = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{where} cannot be read: {error.strerror}", "mend the path, or unset it") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise SpecError(f"{where} is no YAML", "mend it: one KEY: VALUE a line") from None
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise SpecError(f"{where} holds no settings", "mend it: one KEY: VALUE a line")
    found: dict[str, str] = {}
    for key, value in body.items():
        if not is_key(str(key)):
            raise SpecError(
                f"LMCache has no setting {key} (in {path}), and would ignore it in silence",
                nearest(str(key), environment.KEYS),
            )
        if value is not None:
            name = variable(str(key))
            found[name] = environment.check(name, as_text(value))
    return found


def is_key(name: str) -> bool:
    """Whether LMCache has a setting of this name."""
    return name in environment.KEYS


def variable(key: str) -> str:
    """The variable that stands for a key."""
    return PREFIX + key.upper()


def as_text(value: Any) -> str:
    """A value of YAML or TOML as LMCache reads it from a variable."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return ",".join(as_text(one) for one in value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)
