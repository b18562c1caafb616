"""What the user asked for: flags over environment over `dynamoctl.toml` over the defaults.

`DeploymentSpec` is the one place where a default stands. It is checked here as far as it can be
without looking at the host; what needs the host is for `doctor`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from dynamoctl import lmcache_keys
from dynamoctl.errors import SpecError
from dynamoctl.words import nearest

Mode = Literal["agg", "disagg"]
Device = Literal["auto", "cuda", "cpu"]
Engine = Literal["vllm", "mocker"]
RouterMode = Literal[
    "round-robin", "random", "power-of-two", "kv", "direct", "least-loaded", "device-aware-weighted"
]
LMCacheMode = Literal["auto", "inproc", "mp"]

CONFIG_NAME = "dynamoctl.toml"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_GPU = re.compile(r"\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+")


def parse_gpus(value: object) -> object:
    """`"0,1"`, `[0, 1]` or `0` as a tuple of GPU indices or UUIDs, each a string."""
    if isinstance(value, bool):
        raise ValueError("true and false name no GPU")
    if isinstance(value, int):
        value = [value]
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return value
    gpus = []
    for item in value:
        text = str(item).strip()
        if not _GPU.fullmatch(text):
            raise ValueError(
                f"'{text}' is no GPU: give indices or UUIDs with commas between them, as in 0,1"
            )
        gpus.append(str(int(text)) if text.isdigit() else text)
    return tuple(gpus)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LMCacheSpec(_Model):
    """The KV cache that outlives a request.

    Attributes:
        enabled: off with `--no-lmcache` or `ENABLE_LMCACHE=0`.
        mode: `inproc` (in the engine), `mp` (a cache server beside it), `auto`: `inproc` on GPUs,
            `mp` on a CPU, where the in-process connector cannot work.
        chunk_size: tokens per chunk; a shorter prompt never hits.
        cpu_gb: CPU memory for the cache in GiB: for each worker and rank with `inproc`, for the
            host with `mp`. None: 20 on GPUs, as the integration has it; 1 on a CPU.
        env: the user's other `LMCACHE_*` variables, checked.
    """

    enabled: bool = True
    mode: LMCacheMode = "auto"
    chunk_size: Annotated[int, Field(ge=1, le=65536)] = 256
    cpu_gb: Annotated[float, Field(gt=0, le=65536)] | None = None
    env: dict[str, str] = Field(default_factory=dict)


class DeploymentSpec(_Model):
    """One deployment as the user wants it; frozen, comparable, written into its plan.

    Attributes:
        gpus: GPU indices (as the caller's CUDA_VISIBLE_DEVICES counts them) or UUIDs, in the order
            in which workers take them; empty: chosen.
        workers: aggregated replicas (mode `agg`).
        decode, prefill: replicas of each role (mode `disagg`).
        tp: tensor parallelism: GPUs (ranks) of one worker.
        timeout_s: the one deadline for the whole start, seconds.
        drain_s: what requests in flight get when a worker is stopped, seconds.
        engine_args: arguments for every vLLM worker, handed on untouched.
    """

    name: str = "default"
    mode: Mode = "agg"
    model: str | None = None
    served_model_name: str | None = None
    device: Device = "auto"
    engine: Engine = "vllm"
    gpus: Annotated[tuple[str, ...], BeforeValidator(parse_gpus)] = ()
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    decode: Annotated[int, Field(ge=1, le=64)] = 1
    prefill: Annotated[int, Field(ge=1, le=64)] = 1
    tp: Annotated[int, Field(ge=1, le=64)] = 1
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    router_mode: RouterMode = "round-robin"
    start: Literal["ordered", "overlapped"] = "ordered"
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 5.0
    lmcache: LMCacheSpec = LMCacheSpec()
    engine_args: tuple[str, ...] = ()
    prefill_args: tuple[str, ...] = ()
    decode_args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name_fits_everywhere(cls, value: str) -> str:
        # It becomes a folder, a Dynamo namespace and later a Kubernetes name.
        if not _NAME.fullmatch(value):
            raise ValueError(
                "a name has 1 to 32 lower-case letters, digits and inner hyphens, as in qwen-prod"
            )
        return value

    @model_validator(mode="after")
    def _roles_fit_the_mode(self) -> DeploymentSpec:
        asked = self.model_fields_set
        if self.mode == "agg":
            for field in ("decode", "prefill", "prefill_args", "decode_args"):
                if field in asked and getattr(self, field) != type(self).model_fields[field].default:
                    raise ValueError(f"{field}: only `up disagg` has prefill and decode workers")
        elif self.workers != 1:
            raise ValueError("workers: `up disagg` has decode and prefill workers: say how many of each")
        if self.gpus:
            if self.device == "cpu":
                raise ValueError("device: GPUs are named, so the device cannot be the CPU")
            if len(self.gpus) != self.ranks:
                raise ValueError(self._gpu_count_message())
        return self

    @property
    def replicas(self) -> int:
        """How many workers there are, of all roles."""
        return self.workers if self.mode == "agg" else self.decode + self.prefill

    @property
    def ranks(self) -> int:
        """How many GPUs the workers take, one that is shared counted once for each sharer."""
        return self.replicas * self.tp

    def _gpu_count_message(self) -> str:
        named, need = len(self.gpus), self.ranks
        workers = (
            f"{self.workers} worker{'s' if self.workers > 1 else ''}"
            if self.mode == "agg"
            else f"{self.decode} decode + {self.prefill} prefill"
        )
        message = f"gpus: {named} named, but {workers} with tensor parallelism {self.tp} take {need}"
        if named > need and self.mode == "agg":
            return message + f": name {need}, or add --workers {named} or --tp {named}"
        if named < need:
            return message + ": name more, or one twice to share it (as in --gpus 0,0)"
        return message + ": name fewer, or ask for more workers"


def load_spec(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None
) -> DeploymentSpec:
    """Merge flags, environment and TOML into one checked spec.

    Args:
        flags: field name -> value, dotted for the cache's (`lmcache.mode`); None is "not given".
        environ: the caller's environment; read are ENABLE_LMCACHE and LMCACHE_*.
        config: the TOML file, or None for no file.

    Raises:
        SpecError: a value, key or file that makes no deployment.
    """
    values: dict[str, Any] = _read_toml(config) if config else {}
    lmcache = values.get("lmcache")
    if lmcache is None:
        lmcache = values["lmcache"] = {}
    if isinstance(lmcache, dict):
        for field, value in _lmcache_from_environment(environ).items():
            if field == "env":
                value = {**_table(lmcache, "env"), **value}
            lmcache[field] = value
    for field, value in flags.items():
        if value is None:
            continue
        target = values
        if "." in field:
            table, field = field.split(".", 1)
            target = values.setdefault(table, {})
        if isinstance(target, dict):
            target[field] = value
    try:
        return DeploymentSpec.model_validate(values)
    except ValidationError as error:
        raise SpecError(*_explain(error, config)) from None


def _table(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key, {})
    return value if isinstance(value, dict) else {}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not valid TOML: {error}", "mend the line that it names") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not valid TOML: it is not UTF-8 text") from None
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
    settings = lmcache_keys.check_environment(environ)
    if "LMCACHE_CHUNK_SIZE" in settings:
        found["chunk_size"] = int(settings.pop("LMCACHE_CHUNK_SIZE"))
    if "LMCACHE_MAX_LOCAL_CPU_SIZE" in settings:
        found["cpu_gb"] = float(settings.pop("LMCACHE_MAX_LOCAL_CPU_SIZE"))
    if settings:
        found["env"] = settings
    return found


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = DeploymentSpec
    for step in path:
        field = model.model_fields.get(str(step))
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)


def _explain(error: ValidationError, config: Path | None) -> tuple[str, str]:
    """The first of pydantic's findings, in the user's words: (message, hint)."""
    first = error.errors()[0]
    location = tuple(part for part in first["loc"] if not str(part).startswith("function-"))
    where = ".".join(str(part) for part in location)
    source = f" (in {config})" if config else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key '{where}'{source}", nearest(str(location[-1]), _fields_at(location[:-1]))
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return (f"{where}: {message}" if where else message), ""
    if first["type"] == "literal_error":
        return f"{where}: '{first['input']}' is not one of {first['ctx']['expected']}{source}", ""
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}{source}", ""


ROUTER_MODES: tuple[str, ...] = get_args(RouterMode)
