"""Merge what the user asked for: flags over environment over `dynamoctl.toml` over the defaults.

Errors use the user's own words: a flag by its name, a key of a file with the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.config.types import OWN_FIELDS
from dynamoctl.errors import SpecError
from dynamoctl.humanize import is_utf8, nearest
from dynamoctl.lmcache import config_file, environment


def load_spec(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None
) -> DeploymentSpec:
    """`load`, without where each value is from."""
    return load(flags, environ, config)[0]


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None
) -> tuple[DeploymentSpec, dict[str, str]]:
    """Merge flags, environment, TOML and LMCache's own file into one checked spec.

    Args:
        flags: field name -> value, dotted for the cache's (`lmcache.mode`); None is "not given".
        environ: the caller's environment; read are ENABLE_LMCACHE, LMCACHE_* and, for etcd, ETCD_ENDPOINTS.
        config: the TOML file, or None for no file.

    Returns:
        The spec, and where LMCache's settings are from: `lmcache.FIELD` or a variable's name -> a flag, a
        variable or a file. What is not in there is a default.

    Raises:
        SpecError: a value, key or file that makes no deployment.
    """
    values: dict[str, Any] = _read_toml(config) if config else {}
    sources = _settings_of_lmcache(values, environ, str(config))
    # Field -> where its value is from, for errors; what is not in here is from the file.
    origins: dict[tuple[str, ...], str] = {}
    for field, value in _lmcache_from_environment(environ).items():
        table = values.setdefault("lmcache", {})
        if not isinstance(table, dict):
            break
        if field == "env":
            inner = table.setdefault("env", {})
            if isinstance(inner, dict):
                inner.update(value)
            origins |= {("lmcache", "env", name): _FROM_ENVIRONMENT for name in value}
            sources |= dict.fromkeys(value, "environment")
        else:
            table[field] = value
            origins["lmcache", field] = _FROM_ENVIRONMENT
            sources[f"lmcache.{field}"] = next((n for n, f in OWN_FIELDS.items() if f == field), field)
    etcd = flags.get("discovery") or values.get("discovery")
    if etcd == "etcd" and environ.get("ETCD_ENDPOINTS"):
        values["etcd_endpoints"] = environ["ETCD_ENDPOINTS"]
        origins["etcd_endpoints",] = _FROM_ENVIRONMENT
    for field, value in flags.items():
        if value is None:
            continue
        *tables, key = field.split(".")
        target: Any = values
        for name in tables:
            target = target.setdefault(name, {}) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target[key] = value
            origins[*tables, key] = _FROM_FLAG
            sources[field] = flag_of(field)
    try:
        return DeploymentSpec.model_validate(values), sources
    except ValidationError as error:
        raise SpecError(*_explain(error, origins, f" (in {config})" if config else "")) from None
    except UnicodeEncodeError:  # pydantic cannot repeat a message about it
        named = next((flag_of(field) for field, value in flags.items() if not is_utf8(value)), "a variable")
        raise SpecError(f"{named}: the value is not UTF-8 text") from None


def _settings_of_lmcache(values: dict[str, Any], environ: Mapping[str, str], config: str) -> dict[str, str]:
    """Bring LMCache's own keys of `[lmcache]`, and below them those of its file, to where they belong.

    Returns:
        Where each setting is from.
    """
    table = values.setdefault("lmcache", {})
    if not isinstance(table, dict):
        return {}
    env = table.setdefault("env", {})
    if not isinstance(env, dict):
        return {}
    for key in [key for key in table if config_file.is_key(key) and key not in LMCacheSpec.model_fields]:
        value, field = table.pop(key), OWN_FIELDS.get(config_file.variable(key))
        if field is None:
            env.setdefault(config_file.variable(key), config_file.setting(key, value))
        elif field in table:
            raise SpecError(f"lmcache.{key} and lmcache.{field} are the same setting", "remove one of them")
        else:
            table[field] = value
    sources = {f"lmcache.{key}": config for key in table if key != "env"} | dict.fromkeys(env, config)
    path = environ.get("LMCACHE_CONFIG_FILE") or env.pop("LMCACHE_CONFIG_FILE", "")
    for name, value in config_file.read(path).items() if path else ():
        field = OWN_FIELDS.get(name)
        if field is None:
            target, key, label = env, name, name
        else:
            target, key, label = table, field, f"lmcache.{field}"
        if key not in target:
            target[key] = int(value) if field == "chunk_size" else value
            sources[label] = path
    if not env:
        del table["env"]
    if not table:
        del values["lmcache"]
    return sources


_FROM_ENVIRONMENT = " (from the environment)"
_FROM_FLAG = ""  # its name says so


def flag_of(field: str) -> str:
    """What a user writes for a field, dotted for the cache's: a flag of `up`, or the place of an argument."""
    return _ARGUMENTS.get(field) or f"--{field.removesuffix('_s').replace('.', '-').replace('_', '-')}"


_ARGUMENTS = {"mode": "MODE", "engine_args": "the arguments after --", "lmcache.enabled": "--lmcache"}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not valid TOML: {error}", "fix the line that it names") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not valid TOML: it is not UTF-8 text") from None
    except ValueError as error:  # a number with thousands of digits
        raise SpecError(f"{path} is not valid TOML: {str(error).partition(':')[0].lower()}") from None
    except RecursionError:
        raise SpecError(f"{path} is nested too deeply") from None
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None


def switch(name: str, value: str) -> bool:
    """A boolean out of the environment. Raises SpecError for what is neither on nor off."""
    lowered = value.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off", ""}:
        return False
    raise SpecError(f"{name}={value} is neither on nor off", f"set {name}=1 or {name}=0")


def _lmcache_from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "ENABLE_LMCACHE" in environ:
        found["enabled"] = switch("ENABLE_LMCACHE", environ["ENABLE_LMCACHE"])
    settings = environment.check_environment(environ)
    settings.pop("LMCACHE_CONFIG_FILE", None)  # read already
    for name, field in OWN_FIELDS.items():
        if name in settings:
            value = settings.pop(name)
            found[field] = int(value) if field == "chunk_size" else value
    if settings:
        found["env"] = settings
    return found


def _fields_at(path: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = DeploymentSpec
    for step in path:
        field = model.model_fields.get(step)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)


_SHOWN = 200
# What pydantic calls a model, a tuple or a dict, in TOML's words.
_WANTED = {
    "model_type": "must be a table, as in [{}]",
    "dict_type": "must be a table, as in [{}]",
    "tuple_type": "must be a list",
    "string_unicode": "must be UTF-8 text",
}


def _shown(value: object) -> str:
    """A rejected value as an error has it: what is long is cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a number with thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _explain(error: ValidationError, origins: Mapping[tuple[str, ...], str], file: str) -> tuple[str, str]:
    """The first of pydantic's findings, in the user's words: (message, hint)."""
    first = error.errors()[0]
    location = tuple(str(part) for part in first["loc"])
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else ""
    if message and not location:  # of one field with the others: the message begins with its name
        field, _, message = message.partition(": ")
        location = (field,)
    where = ".".join(location)
    given = [location[:n] for n in range(len(location), 0, -1) if location[:n] in origins]
    source = origins[given[0]] if given else file
    if source == _FROM_FLAG and given:
        where = flag_of(".".join(given[0]))
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        return f"unknown key '{where}'{source}", nearest(location[-1], _fields_at(location[:-1]))
    if kind == "value_error":
        return f"{where}: {message}{source}", ""
    if kind == "literal_error":
        return f"{where}: {_shown(value)} is not one of {first['ctx']['expected']}{source}", ""
    wanted = _WANTED.get(kind, first["msg"][0].lower() + first["msg"][1:]).format(where)
    # A variable's value may be a secret.
    rejected = "" if "env" in location[:-1] else f", not {_shown(value)}"
    hint = "to serve without LMCache: enabled = false in it" if where == "lmcache" else ""
    return f"{where}: {wanted}{rejected}{source}", hint
