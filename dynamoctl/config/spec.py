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
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest
from dynamoctl.lmcache import config_file, environment, remote_stores

Mode = Literal["agg", "disagg"]
Device = Literal["auto", "cuda", "cpu"]
Engine = Literal["vllm", "mocker"]
RouterMode = Literal[
    "round-robin", "random", "power-of-two", "kv", "direct", "least-loaded", "device-aware-weighted"
]
LMCacheMode = Literal["auto", "inproc", "mp"]
Discovery = Literal["file", "etcd"]
HostRole = Literal["frontend", "agg", "decode", "prefill"]

# What a deployment consists of, in the order in which it is started; `--roles` takes some of them.
ROLES: dict[Mode, tuple[HostRole, ...]] = {
    "agg": ("frontend", "agg"),
    "disagg": ("frontend", "decode", "prefill"),
}

CONFIG_NAME = "dynamoctl.toml"

# LMCache's variables that the plan itself counts with.
OWN_FIELDS = {
    "LMCACHE_CHUNK_SIZE": "chunk_size",
    "LMCACHE_MAX_LOCAL_CPU_SIZE": "cpu_gb",
    "LMCACHE_LOCAL_DISK": "disk",
    "LMCACHE_MAX_LOCAL_DISK_SIZE": "disk_gb",
    "LMCACHE_REMOTE_URL": "remote",
    "LMCACHE_GDS_PATH": "gds",
}

_MOST_GIB = 1048576
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_GPU = re.compile(r"[0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ETCD = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")

# What the validators below take, as JSON schema, which pydantic cannot read out of code. A test holds the two
# against each other; `config_schema` has the whole.
_SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_GIB},
        {"type": "string", "pattern": environment.SIZE_PATTERN},
    ]
}
_AUTO_SIZE_SCHEMA = {"anyOf": [*_SIZE_SCHEMA["anyOf"], {"const": "auto"}]}
_FOLDER_SCHEMA = {"type": "string", "not": {"pattern": r"^\s*(file://)?\s*$"}}
_ONE_GPU = rf"\s*({_GPU.pattern})\s*"
_GPU_INDEX = {"type": "integer", "minimum": 0, "maximum": 999}
_GPUS_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"anyOf": [_GPU_INDEX, {"type": "string", "pattern": f"^{_ONE_GPU}$"}]}},
        {"type": "string", "pattern": f"^{_ONE_GPU}(,{_ONE_GPU})*$"},
        _GPU_INDEX,
    ]
}
_ONE_ROLE = rf"\s*({'|'.join(get_args(HostRole))})\s*"
_ROLES_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "string", "pattern": f"^{_ONE_ROLE}$"}},
        {"type": "string", "pattern": f"^{_ONE_ROLE}(,{_ONE_ROLE})*$"},
    ]
}
_ONE_ETCD = rf"\s*{_ETCD.pattern}/?\s*"
_ETCD_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "string", "pattern": f"^{_ONE_ETCD}$"}},
        {"type": "string", "pattern": f"^{_ONE_ETCD}(,{_ONE_ETCD})*$"},
    ]
}
_STORE_SCHEMA = {"type": "string", "pattern": rf"^\s*({'|'.join(remote_stores.KINDS)})://"}
_ADAPTERS_SCHEMA = {
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


def parse_gpus(value: object) -> object:
    """`"0,1"`, `[0, 1]` or `0` as a tuple of GPU indices or UUIDs, each a string."""
    if isinstance(value, bool):
        raise ValueError("true and false name no GPU")
    if isinstance(value, int):
        value = [value]
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("no GPU is named: give indices or UUIDs, as in 0,1, or leave it out")
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return value
    gpus = []
    for item in value:
        text = str(item).strip()
        if not _GPU.fullmatch(text):
            raise ValueError(f"'{text}' is no GPU: give indices or UUIDs with commas between them, as in 0,1")
        gpus.append(str(int(text)) if text.isdigit() else text)
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
    words = _listed(value, "no role is named: say which, as in frontend,decode, or leave it out")
    if not isinstance(words, tuple):
        return words
    known = get_args(HostRole)
    for word in words:
        if word not in known:
            raise ValueError(f"'{word}' is no role: there are {', '.join(known)}")
    return tuple(role for role in known if role in words)


def parse_etcd(value: object) -> object:
    """`"http://HOST:2379,..."` or a list of them as a tuple of URLs."""
    words = _listed(value, "no endpoint is named: say where etcd answers, as in http://HOST:2379")
    if not isinstance(words, tuple):
        return words
    for word in words:
        if "@" in word:
            raise ValueError(
                "a URL of etcd's takes no name and no password: set ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD"
            )
        if not _ETCD.fullmatch(word.removesuffix("/")):
            raise ValueError(
                f"'{word}' is no endpoint of etcd's: give http:// or https://, a host and a port"
            )
    return tuple(word.removesuffix("/") for word in words)


def parse_size(value: object) -> object:
    """`20`, `"20"`, `"20GiB"` or `"20GB"` as GiB; a number has no unit and is GiB already."""
    if isinstance(value, str) and value != "auto":
        value = environment.gib(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if not 0 < value <= _MOST_GIB:
        raise ValueError(f"{value:g} GiB is no size that can be had: it is more than 0, at most {_MOST_GIB}")
    return float(value)


def parse_folder(value: object) -> object:
    """A folder's absolute path, out of `file:///path`, `~/path` or a path as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip().removeprefix("file://")
    if not text:
        raise ValueError("no folder is named")
    return str(Path(text).expanduser().absolute())


def _store(value: str) -> str:
    remote_stores.parse(value)
    return value.strip()


def _no_nul(value: str) -> str:
    # A command line and an environment end at a NUL: no process could be started.
    if "\0" in value:
        raise ValueError("a NUL character cannot be handed to a process")
    return value


def _variables(env: dict[str, str]) -> dict[str, str]:
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"'{name}' cannot be the name of an environment variable")
        if name in OWN_FIELDS:
            raise ValueError(f"{name} has a key of its own: set lmcache.{OWN_FIELDS[name]}")
    return {**env, **environment.check_environment(env)}


Text = Annotated[str, AfterValidator(_no_nul)]
Name = Annotated[str, Field(min_length=1), AfterValidator(_no_nul)]
Environment = Annotated[dict[str, Text], AfterValidator(_variables), WithJsonSchema(_VARIABLES_SCHEMA)]
# Strict: `workers = true` is no number of workers.
Size = Annotated[float, Field(strict=True), BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
AutoSize = Annotated[
    Annotated[float, Field(strict=True)] | Literal["auto"],
    BeforeValidator(parse_size),
    WithJsonSchema(_AUTO_SIZE_SCHEMA),
]
Folder = Annotated[
    str, BeforeValidator(parse_folder), AfterValidator(_no_nul), WithJsonSchema(_FOLDER_SCHEMA)
]
StoreUrl = Annotated[Name, AfterValidator(_store), WithJsonSchema(_STORE_SCHEMA)]
Replicas = Annotated[int, Field(strict=True, ge=1, le=64)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LMCacheSpec(_Model):
    """The KV cache that outlives a request.

    Attributes:
        enabled: keep and reuse the KV cache; off with `--no-lmcache` or `ENABLE_LMCACHE=0`.
        mode: `inproc` (in the engine), `mp` (a cache server beside it), `auto`: `inproc` on GPUs,
            `mp` on a CPU, where the in-process connector cannot work.
        chunk_size: tokens per chunk; a shorter prompt never hits.
        cpu_gb: CPU memory for the cache in GiB: for each worker and rank with `inproc`, for the
            host with `mp`. None: 20 on GPUs, as the integration has it; 1 on a CPU; all together at
            most half of the memory that is available. `auto`: all that is available but a reserve.
        disk: the folder of a tier on a local disk, or None.
        disk_gb: how much of the disk it may take, GiB, for each worker and rank with `inproc`.
        remote: the URL of a store that several hosts or deployments can share, or None.
        gds: the folder of a tier that GPUs reach directly (GPUDirect Storage), or None.
        l2: more adapters of the cache server (`mp`), each as its JSON is: a table with a `type`.
        env: the user's other `LMCACHE_*` variables, checked.
    """

    enabled: Annotated[bool, Field(strict=True)] = True
    mode: LMCacheMode = "auto"
    chunk_size: Annotated[int, Field(strict=True, ge=1, le=65536)] = 256
    cpu_gb: Annotated[AutoSize | None, Field(examples=[20])] = None
    disk: Annotated[Folder | None, Field(examples=["/var/cache/lmcache"])] = None
    disk_gb: Annotated[Size | None, Field(examples=[100])] = None
    remote: Annotated[
        StoreUrl | None, Field(examples=[kind.example for kind in remote_stores.KINDS.values()])
    ] = None
    gds: Annotated[Folder | None, Field(examples=["/mnt/nvme/lmcache"])] = None
    l2: Annotated[tuple[dict[str, Any], ...], WithJsonSchema(_ADAPTERS_SCHEMA)] = ()
    env: Environment = Field(default_factory=dict, examples=[{"LMCACHE_LOG_LEVEL": "INFO"}])

    @field_validator("l2")
    @classmethod
    def _adapters_of_the_server(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for table in value:
            kind = table.get("type")
            if kind not in remote_stores.L2_ADAPTERS:
                hint = nearest(str(kind), remote_stores.L2_ADAPTERS) if kind else "give each table a type"
                raise ValueError(f"the cache server has no adapter of type {kind!r}: {hint}")
        return value

    @model_validator(mode="after")
    def _a_disk_has_a_size(self) -> LMCacheSpec:
        if self.disk and self.disk_gb is None:
            raise SpecError(
                "lmcache.disk_gb: how much LMCache may take is not said, and it would take none",
                "say it as in --lmcache-disk-gb 100 (GiB)",
            )
        if self.disk_gb and not self.disk:
            raise SpecError(
                "lmcache.disk: a size is given, but no folder",
                "name it, as in --lmcache-disk /var/cache/lmcache",
            )
        return self

    @field_validator("env")
    @classmethod
    def _only_settings_of_lmcache(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.startswith(environment.PREFIX):
                raise ValueError(f"{name} is no setting of LMCache's: put it into [env]")
        return value


class DeploymentSpec(_Model):
    """One deployment as the user wants it; frozen, comparable, written into its plan.

    Attributes:
        name: the deployment's name: lower-case letters, digits and inner hyphens, at most 32.
        mode: `agg`: prefill and decode in one worker; `disagg`: in workers of their own.
        model: a folder, a hub id, or smollm2-135m-instruct, which is built in. None: Qwen/Qwen3-0.6B on
            GPUs, smollm2-135m-instruct on a CPU.
        served_model_name: the name that clients use. None: the model's own.
        device: where workers run. `auto`: on GPUs if there are any, else on the CPU.
        engine: `mocker`: Dynamo's own stand-in for vLLM; no weights, made-up text.
        gpus: GPU indices (as the caller's CUDA_VISIBLE_DEVICES counts them) or UUIDs, in the order
            in which workers take them; empty: chosen.
        workers: aggregated replicas (mode `agg`).
        decode: decode replicas (mode `disagg`).
        prefill: prefill replicas (mode `disagg`).
        tp: tensor parallelism: GPUs (ranks) of one worker.
        host: where the frontend listens.
        port: its HTTP port.
        router_mode: how the frontend picks a worker.
        migration_limit: how often the frontend may move a request to another worker of the same role when
            its worker dies; 0: never, the request then fails. Unset: 3 if a role has two workers or more, or
            may have them on other hosts (discovery `etcd`); else 0.
        start: `ordered`: prefill when decode is ready; `overlapped`: all together.
        timeout_s: the one deadline for the whole start, seconds.
        hang_timeout_s: how long a vLLM engine that may be in the middle of a step gives no sign of life
            before
            its worker is restarted, seconds; after a third of it, the worker is out of discovery.
        drain_s: what requests in flight get when a worker is stopped, seconds.
        discovery: how its processes find each other. `file`: in a folder of this host; `etcd`: in an etcd
            that runs already, which several hosts can share.
        etcd_endpoints: where that etcd answers. Unset: what ETCD_ENDPOINTS says.
        roles: which part of it runs on this host: of frontend, decode, prefill (mode `disagg`) or of
            frontend, agg (mode `agg`); the rest runs on others, with the same name, mode, model. Empty: all.
        advertise: the IPv4 address of this host, or the interface, at which its other hosts reach it. Unset:
            the loopback.
        lmcache: see the table `[lmcache]`.
        engine_args: arguments for every vLLM worker, handed on untouched.
        prefill_args: arguments for the prefill workers alone (mode `disagg`).
        decode_args: arguments for the decode workers alone (mode `disagg`).
        env: environment for every unit.
    """

    name: Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})] = "default"
    mode: Mode = "agg"
    model: Name | None = None
    served_model_name: Annotated[Name | None, Field(examples=["my-model"])] = None
    device: Device = "auto"
    engine: Engine = "vllm"
    gpus: Annotated[tuple[str, ...], BeforeValidator(parse_gpus), WithJsonSchema(_GPUS_SCHEMA)] = ()
    workers: Replicas = 1
    decode: Replicas = 1
    prefill: Replicas = 1
    tp: Replicas = 1
    host: Name = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 8000
    router_mode: RouterMode = "round-robin"
    migration_limit: Annotated[int | None, Field(strict=True, ge=0, le=100, examples=[3])] = None
    start: Literal["ordered", "overlapped"] = "ordered"
    timeout_s: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 1800.0
    hang_timeout_s: Annotated[float, Field(strict=True, ge=60, le=86400)] = 180.0
    drain_s: Annotated[float, Field(strict=True, ge=0, le=3600)] = 5.0
    discovery: Discovery = "file"
    etcd_endpoints: Annotated[
        tuple[Text, ...],
        BeforeValidator(parse_etcd),
        WithJsonSchema(_ETCD_SCHEMA),
        Field(examples=[["http://10.0.0.1:2379"]]),
    ] = ()
    roles: Annotated[
        tuple[HostRole, ...],
        BeforeValidator(parse_roles),
        WithJsonSchema(_ROLES_SCHEMA),
        Field(examples=[["frontend", "decode"]]),
    ] = ()
    advertise: Annotated[Name | None, Field(examples=["10.0.0.1"])] = None
    lmcache: LMCacheSpec = LMCacheSpec()
    engine_args: tuple[Text, ...] = ()
    prefill_args: tuple[Text, ...] = ()
    decode_args: tuple[Text, ...] = ()
    env: Environment = Field(default_factory=dict, examples=[{"HF_HOME": "/data/huggingface"}])

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

    @model_validator(mode="after")
    def _hosts_fit_together(self) -> DeploymentSpec:
        for role in self.roles:
            if role not in ROLES[self.mode]:
                raise ValueError(
                    f"roles: `up {self.mode}` has no {role}: it has {', '.join(ROLES[self.mode])}"
                )
        if self.discovery == "file":
            for field, what in (("etcd_endpoints", "etcd is named"), ("advertise", "others are to reach it")):
                if getattr(self, field):
                    raise ValueError(
                        f"{field}: {what}, but discovery is a folder of this host: add --discovery etcd"
                    )
            if self.elsewhere:
                raise ValueError(
                    f"roles: {' and '.join(self.elsewhere)} on another host cannot be found in a folder of"
                    " this one: add --discovery etcd and --etcd-endpoints"
                )
        elif not self.etcd_endpoints:
            raise ValueError(
                "etcd_endpoints: where etcd answers is not said: --etcd-endpoints http://HOST:2379, or"
                " ETCD_ENDPOINTS"
            )
        if self.elsewhere and not self.advertise:
            raise ValueError(
                "advertise: other hosts must reach this one, and no address is named: --advertise ADDRESS, or"
                " the name of an interface"
            )
        return self

    @property
    def here(self) -> tuple[HostRole, ...]:
        """The roles that run on this host."""
        return self.roles or ROLES[self.mode]

    @property
    def elsewhere(self) -> tuple[HostRole, ...]:
        """The roles that run on other hosts."""
        return tuple(role for role in ROLES[self.mode] if role not in self.here)

    @property
    def counts(self) -> dict[HostRole, int]:
        """The workers of this host: role -> how many, in the order in which they take GPUs."""
        wanted = {"agg": self.workers, "decode": self.decode, "prefill": self.prefill}
        return {role: wanted[role] for role in self.here if role in wanted}

    @property
    def replicas(self) -> int:
        """How many workers there are on this host, of all roles."""
        return sum(self.counts.values())

    @property
    def ranks(self) -> int:
        """How many GPUs they take, one that is shared counted once for each sharer."""
        return self.replicas * self.tp

    def _gpu_count_message(self) -> str:
        named, need = len(self.gpus), self.ranks
        workers = (
            f"{self.workers} worker{'s' if self.workers > 1 else ''}"
            if self.mode == "agg"
            else " + ".join(f"{count} {role}" for role, count in self.counts.items())
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
            origins[*tables, key] = ""
            sources[field] = f"--{field.replace('.', '-').replace('_', '-')}"
    try:
        return DeploymentSpec.model_validate(values), sources
    except ValidationError as error:
        raise SpecError(*_explain(error, origins, f" (in {config})" if config else "")) from None


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
            env.setdefault(config_file.variable(key), config_file.as_text(value))
        elif field in table:
            raise SpecError(f"lmcache.{key} and lmcache.{field} are the same setting", "take one away")
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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not valid TOML: {error}", "mend the line that it names") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not valid TOML: it is not UTF-8 text") from None
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


# What pydantic calls a model, a tuple or a dict, in TOML's words.
_WANTED = {
    "model_type": "a table is wanted, as in [{}]",
    "dict_type": "a table is wanted, as in [{}]",
    "tuple_type": "a list is wanted",
}


def _explain(error: ValidationError, origins: Mapping[tuple[str, ...], str], file: str) -> tuple[str, str]:
    """The first of pydantic's findings, in the user's words: (message, hint)."""
    first = error.errors()[0]
    location = tuple(str(part) for part in first["loc"])
    where = ".".join(location)
    given = [origins[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origins]
    source = given[0] if given else file
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        return f"unknown key '{where}'{source}", nearest(location[-1], _fields_at(location[:-1]))
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        return (f"{where}: {message}{source}" if where else message), ""
    if kind == "literal_error":
        return f"{where}: '{value}' is not one of {first['ctx']['expected']}{source}", ""
    wanted = _WANTED.get(kind, first["msg"][0].lower() + first["msg"][1:]).format(where)
    # A variable's value may be a secret.
    shown = "" if "env" in location[:-1] else f", not {value!r}"
    hint = "to serve without LMCache: enabled = false in it" if where == "lmcache" else ""
    return f"{where}: {wanted}{shown}{source}", hint


ROUTER_MODES: tuple[str, ...] = get_args(RouterMode)
