"""The types of the configuration's values: how each is parsed, checked and written as JSON schema."""

from __future__ import annotations

import os
import re
from datetime import date, time
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from dynamoctl import facts
from dynamoctl.config.choices import HostRole
from dynamoctl.errors import SpecError
from dynamoctl.humanize import path_of
from dynamoctl.lmcache import environment, remote_stores, tables

# LMCache's variables that the plan itself counts with, and its switch.
OWN_FIELDS = {
    "ENABLE_LMCACHE": "enabled",
    "LMCACHE_CHUNK_SIZE": "chunk_size",
    "LMCACHE_MAX_LOCAL_CPU_SIZE": "cpu_gb",
    "LMCACHE_LOCAL_DISK": "disk",
    "LMCACHE_MAX_LOCAL_DISK_SIZE": "disk_gb",
    "LMCACHE_REMOTE_URL": "remote",
    "LMCACHE_GDS_PATH": "gds",
}

_MOST_GIB = 1048576
_GPU = re.compile(r"[0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+")
_GPU_OR_RANGE = re.compile(rf"{_GPU.pattern}|{facts.INDEX_RANGE}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")

# What the validators below take, as JSON schema, which pydantic cannot read out of code. A test holds the two
# against each other; `json_schema` has the whole.
_SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_GIB},
        {"type": "string", "pattern": environment.SIZE_PATTERN},
    ]
}
_AUTO_SIZE_SCHEMA = {"anyOf": [*_SIZE_SCHEMA["anyOf"], {"const": "auto"}]}
_FOLDERS_SCHEMA = {"type": "string", "not": {"pattern": r"^(\s*(file://)?\s*,?)*$"}}
_ONE_GPU = rf"\s*({_GPU_OR_RANGE.pattern})\s*"
_GPU_INDEX = {"type": "integer", "minimum": 0, "maximum": 999}
GPUS_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"anyOf": [_GPU_INDEX, {"type": "string", "pattern": f"^{_ONE_GPU}$"}]}},
        {"type": "string", "pattern": f"^{_ONE_GPU}(,{_ONE_GPU})*$"},
        _GPU_INDEX,
    ]
}
_ONE_ROLE = rf"\s*({'|'.join(get_args(HostRole))})\s*"
ROLES_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "string", "pattern": f"^{_ONE_ROLE}$"}},
        {"type": "string", "pattern": f"^{_ONE_ROLE}(,{_ONE_ROLE})*$"},
    ]
}
_ONE_ETCD = rf"\s*{_URL.pattern}/?\s*"
ETCD_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "string", "pattern": f"^{_ONE_ETCD}$"}},
        {"type": "string", "pattern": f"^{_ONE_ETCD}(,{_ONE_ETCD})*$"},
    ]
}
_STORE_SCHEMA = {"type": "string", "pattern": rf"^\s*({'|'.join(remote_stores.KINDS)})://"}
ADAPTERS_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(remote_stores.L2_ADAPTERS)}},
    },
}
_VARIABLES_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "propertyNames": {"pattern": f"^{_VARIABLE.pattern}$", "not": {"enum": list(OWN_FIELDS)}},
}


class WrongValueError(ValueError):
    """A value that a validator refuses.

    Attributes:
        hint: how to fix it.
        about: the field that makes it wrong, if that is another one: the message names where that one stands.
    """

    def __init__(self, message: str, hint: str, about: str = "") -> None:
        super().__init__(message)
        self.hint, self.about = hint, about


# Characters of a refused value in a message.
_MOST_SHOWN = 80


def shown(value: object) -> str:
    """A value of a file for a message: short, and a date as the file has it."""
    try:
        text = str(value) if isinstance(value, (date, time)) else repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        text = "a number of too many digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def parse_gpus(value: object) -> object:
    """`"0,1"`, `"0-1"`, `[0, 1]` or `0` as a tuple of GPU indices or UUIDs, each a string."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a GPU index or UUID")
    if isinstance(value, int):
        value = [value]
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("no GPU given: give indices or UUIDs, as in 0,1 or 0-3, or leave it out")
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return value
    gpus: list[str] = []
    for item in value:
        text = str(item).strip()
        if not _GPU_OR_RANGE.fullmatch(text):
            raise ValueError(
                f"'{text}' is not a GPU index or UUID: separate several with commas, as in 0,1 or 0-3,6"
            )
        gpus += facts.index_range(text) or [str(int(text)) if text.isdigit() else text]
    return tuple(gpus)


def _listed(value: object, none: str) -> object:
    """`"a, b"` or `["a", "b"]` as a tuple of words without space around them."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(none)
        value = value.split(",")
    return tuple(str(one).strip() for one in value) if isinstance(value, (list, tuple)) else value


def parse_roles(value: object) -> object:
    """`"frontend,decode"` or a list of them as a tuple, each once, in the order of the start."""
    words = _listed(value, "no role given: name them, as in frontend,decode, or leave it out")
    if not isinstance(words, tuple):
        return words
    known = get_args(HostRole)
    for word in words:
        if word not in known:
            raise ValueError(f"'{word}' is not a role: choose from {', '.join(known)}")
    return tuple(role for role in known if role in words)


def parse_etcd(value: object) -> object:
    """`"http://HOST:2379,..."` or a list of them as a tuple of URLs."""
    words = _listed(value, "no endpoint given: give etcd's URL, as in http://HOST:2379")
    if not isinstance(words, tuple):
        return words
    for word in words:
        if "@" in word:
            raise ValueError(
                "an etcd URL cannot hold a user name or password:"
                " set ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD"
            )
        if not _URL.fullmatch(word.removesuffix("/")):
            raise ValueError(f"'{word}' is not an etcd endpoint: give http:// or https://, a host and a port")
    return tuple(word.removesuffix("/") for word in words)


def parse_otlp(value: object) -> object:
    """`"http://HOST:4317"`, where OTLP over gRPC is listened for; a `/` at its end goes."""
    if not isinstance(value, str):
        return value
    if not _URL.fullmatch(value.removesuffix("/")):
        raise ValueError(
            f"'{value}' is not an OTLP endpoint: give http:// or https://, a host and a port, as in"
            " http://127.0.0.1:4317"
        )
    return value.removesuffix("/")


def parse_size(value: object) -> object:
    """`20`, `"20"`, `"20GiB"` or `"20GB"` as GiB; a number has no unit and is GiB already."""
    if isinstance(value, str) and value != "auto":
        value = environment.gib(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if not 0 < value <= _MOST_GIB:
        size = f"{value:g}" if abs(value) < 1e9 else shown(value)
        raise ValueError(f"{size} GiB is not a valid size: give more than 0 GiB, and at most {_MOST_GIB} GiB")
    return float(value)


def parse_folders(value: object) -> object:
    """Absolute paths of folders, separated by commas: each from `file:///path`, `~/path` or a path as it is.

    LMCache splits at commas as well: lmcache==0.5.6:lmcache/v1/config_base.py:_parse_local_disk.
    """
    if not isinstance(value, str):
        return value
    words = [word.strip().removeprefix("file://") for word in value.split(",")]
    folders = [str(path_of(word).absolute()) for word in words if word]
    if not folders:
        raise ValueError("no folder given")
    return ",".join(folders)


def _store(value: str) -> str:
    try:
        remote_stores.parse(value)
    except SpecError as error:
        raise WrongValueError(error.message, error.hint) from None
    return value.strip()


def _fits_a_process(value: str) -> str:
    # A command line and an environment end at a NUL: no process could be started.
    if "\0" in value:
        raise ValueError("a NUL character cannot be passed to a process")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair cannot be passed to a process") from None
    return value


def _variables(env: dict[str, str]) -> dict[str, str]:
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"'{name}' is not a valid name of an environment variable")
        if name in OWN_FIELDS:
            raise ValueError(f"{name} has its own key: set lmcache.{OWN_FIELDS[name]}")
    try:
        checked = environment.check_environment(env)
    except SpecError as error:
        raise WrongValueError(error.message, error.hint) from None
    others = {name: value for name, value in env.items() if not name.startswith(tables.PREFIX)}
    return others | {name: value for name, value in checked.items() if value}


Text = Annotated[str, AfterValidator(_fits_a_process)]
Name = Annotated[str, Field(min_length=1), AfterValidator(_fits_a_process)]
Environment = Annotated[dict[str, Text], AfterValidator(_variables), WithJsonSchema(_VARIABLES_SCHEMA)]
# Strict: `workers = true` is not a number of workers.
Size = Annotated[float, Field(strict=True), BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
AutoSize = Annotated[
    Annotated[float, Field(strict=True)] | Literal["auto"],
    BeforeValidator(parse_size),
    WithJsonSchema(_AUTO_SIZE_SCHEMA),
]
Folders = Annotated[
    str, BeforeValidator(parse_folders), AfterValidator(_fits_a_process), WithJsonSchema(_FOLDERS_SCHEMA)
]
StoreUrl = Annotated[Name, AfterValidator(_store), WithJsonSchema(_STORE_SCHEMA)]
Replicas = Annotated[int, Field(strict=True, ge=1, le=64)]


class Model(BaseModel):
    """A table of the configuration: frozen, and without keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
