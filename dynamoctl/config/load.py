"""Merge what the user asked for: flags over environment over `dynamoctl.toml` over the defaults.

Errors use the user's own words: a flag by its name, a key of a file with the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dynamoctl.config import lmcache_layers, paths
from dynamoctl.config.lmcache_layers import FROM_ENVIRONMENT
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.config.types import OWN_FIELDS, shown
from dynamoctl.errors import SpecError
from dynamoctl.humanize import is_utf8, nearest
from dynamoctl.lmcache import names
from dynamoctl.lmcache import tables as lmcache_tables
from dynamoctl.lmcache.environment import unquote


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
        flags: field name -> value, dotted for the cache's (`lmcache.mode`); None is "not given". Relative
            paths in them are relative to the working folder, those in a file to the file's folder.
        environ: the caller's environment; read are ENABLE_LMCACHE, LMCACHE_* and, for etcd, ETCD_ENDPOINTS.
        config: the TOML file, or None for no file.

    Returns:
        The spec, and where LMCache's settings are from: `lmcache.FIELD` or a variable's name -> a flag, a
        variable or a file. What is not in there is a default.

    Raises:
        SpecError: a value, key or file that makes no deployment.
    """
    values: dict[str, Any] = _read_toml(config) if config else {}
    _share_lmcache_variables(values)
    # Field -> where its value is from, for errors; what is not in here is from the file.
    origins: dict[tuple[str, ...], str] = {}
    sources = _merge_lmcache(values, flags, environ, str(config), origins)
    etcd = flags.get("discovery") or values.get("discovery")
    if etcd == "etcd" and environ.get("ETCD_ENDPOINTS"):
        values["etcd_endpoints"] = environ["ETCD_ENDPOINTS"]
        origins["etcd_endpoints",] = FROM_ENVIRONMENT
    for field, value in flags.items():
        if value is None:
            continue
        *tables, key = field.split(".")
        target: Any = values
        for name in tables:
            target = target.setdefault(name, {}) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target[key] = _arguments(value) if key in _ARGUMENT_LISTS else value
            origins[*tables, key] = _FROM_FLAG
            sources[field] = flag_of(field)
    try:
        return DeploymentSpec.model_validate(values), sources
    except ValidationError as error:
        raise SpecError(*_explain(error, origins, f" (in {config})" if config else "")) from None
    except UnicodeEncodeError:  # pydantic cannot repeat a message about it
        named = next((flag_of(field) for field, value in flags.items() if not is_utf8(value)), "a variable")
        raise SpecError(f"{named}: the value is not UTF-8 text") from None


def _share_lmcache_variables(values: dict[str, Any]) -> None:
    """Move LMCache's settings from `[env]` to `[lmcache.env]`, where the plan reads them."""
    shared, table = values.get("env"), values.setdefault("lmcache", {})
    env = table.setdefault("env", {}) if isinstance(table, dict) else None
    if isinstance(shared, dict) and isinstance(env, dict):
        settings = [names.variable(key) for key in lmcache_tables.KEYS]
        for name in (*settings, "LMCACHE_CONFIG_FILE"):
            if name in shared and name not in OWN_FIELDS:  # which have keys of their own
                env[name] = shared.pop(name)


def _merge_lmcache(
    values: dict[str, Any],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config: str,
    origins: dict[tuple[str, ...], str],
) -> dict[str, str]:
    """Bring LMCache's settings into the table `[lmcache]`; returns where each is from."""
    table = values.setdefault("lmcache", {})
    if not isinstance(table, dict) or not isinstance(table.setdefault("env", {}), dict):
        return {}
    if "ENABLE_LMCACHE" in environ:
        table["enabled"] = switch("ENABLE_LMCACHE", environ["ENABLE_LMCACHE"])
        origins["lmcache", "enabled"] = FROM_ENVIRONMENT
    asked = flags.get("lmcache.enabled")
    on = table.get("enabled", True) is not False if asked is None else bool(asked)
    merged = lmcache_layers.merge(table, environ, config, on=on)
    for name, place in merged.places.items():
        origins[("lmcache", "env", name) if name in merged.env else ("lmcache", name)] = place
    if not table["env"]:
        del table["env"]
    if not table:
        del values["lmcache"]
    return merged.sources


_FROM_FLAG = ""  # its name says so
_ARGUMENT_LISTS = ("engine_args", "decode_args", "prefill_args")


def flag_of(field: str) -> str:
    """What a user writes for a field, dotted for the cache's: a flag of `up`, or the place of an argument."""
    return _ARGUMENTS.get(field) or f"--{field.removesuffix('_s').replace('.', '-').replace('_', '-')}"


_ARGUMENTS = {
    "mode": "MODE",
    "engine_args": "the arguments after --",
    "lmcache.enabled": "--lmcache",
    "nvlink_multicast": "--no-multicast",
}


def _arguments(given: Any) -> Any:
    words = isinstance(given, (list, tuple)) and all(isinstance(word, str) for word in given)
    return paths.of_arguments(given, paths.here()) if words else given


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        fix = "fix the line that it names"
        if path.suffix in (".yaml", ".yml"):
            fix = "write TOML (`dynamoctl init` makes a file); LMCache's YAML goes into LMCACHE_CONFIG_FILE"
        raise SpecError(f"{path} is not valid TOML: {error}", fix) from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not valid TOML: it is not UTF-8 text") from None
    except ValueError:
        raise SpecError(f"{path} is not valid TOML: a number in it has too many digits") from None
    except RecursionError:
        raise SpecError(f"{path} is nested too deeply") from None
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    paths.of_table(values, path.absolute().parent)
    return values


def switch(name: str, value: str) -> bool:
    """A boolean out of the environment. Raises SpecError for what is neither on nor off."""
    lowered = unquote(value).lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off", ""}:
        return False
    raise SpecError(f"{name}={value} is neither on nor off", f"set {name}=1 or {name}=0")


def _fields_at(path: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = DeploymentSpec
    for step in path:
        field = model.model_fields.get(step)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return [*model.model_fields, *(lmcache_tables.KEYS if model is LMCacheSpec else ())]


def _hint_for(location: tuple[str, ...]) -> str:
    """What to write instead of an unknown key: the nearest one, or where an argument of vLLM goes."""
    near = nearest(location[-1], _fields_at(location[:-1]))
    if len(location) > 1:
        return near
    key = location[0].replace("-", "_")
    if key in _ALIASES:
        return f"set {_ALIASES[key]}"
    option = f"--{key.replace('_', '-')}"
    return near or f'an argument of vLLM goes into engine_args, as in engine_args = ["{option}", "VALUE"]'


# Names that `vllm serve` and Dynamo have for keys.
_ALIASES = {"tensor_parallel_size": "tp", "http_port": "port", "http_host": "host", "num_gpus": "gpus"}


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
    cause = first["ctx"]["error"] if first["type"] == "value_error" else None
    message = str(cause or "")
    if message and location in ((), ("lmcache",)):  # of one field with the others: it begins with its name
        field, _, message = message.partition(": ")
        location = (*location, field)
    where = ".".join(location)
    given = [location[:n] for n in range(len(location), 0, -1) if location[:n] in origins]
    source = origins[given[0]] if given else file
    if about := getattr(cause, "about", ""):
        source = origins.get((*location[:-1], about)) or source
    if source == _FROM_FLAG and given:
        where = flag_of(".".join(given[0]))
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        return f"unknown key '{where}'{source}", _hint_for(location)
    if kind == "value_error":
        return f"{where}: {message}{source}", getattr(cause, "hint", "")
    if kind == "literal_error":
        return f"{where}: {shown(value)} is not one of {first['ctx']['expected']}{source}", ""
    wanted = _WANTED.get(kind, first["msg"][0].lower() + first["msg"][1:]).format(where)
    # A variable's value may be a secret.
    rejected = "" if "env" in location[:-1] else f", not {shown(value)}"
    hint = "to serve without LMCache: enabled = false in it" if where == "lmcache" else ""
    return f"{where}: {wanted}{rejected}{source}", hint
