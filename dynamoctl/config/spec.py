"""One deployment as the user wants it, checked as far as that is possible without a look at the host.

What needs the host is for `doctor`. Defaults that others read too stand in `dynamoctl.policies`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from dynamoctl import policies
from dynamoctl.config.choices import (
    NAME,
    NAME_RULE,
    ROLES,
    Device,
    Discovery,
    Engine,
    HostRole,
    Mode,
    RouterMode,
    StartOrder,
)
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.types import (
    ETCD_SCHEMA,
    GPUS_SCHEMA,
    ROLES_SCHEMA,
    Environment,
    Model,
    Name,
    Replicas,
    Text,
    parse_etcd,
    parse_gpus,
    parse_otlp,
    parse_roles,
)


class DeploymentSpec(Model):
    """One deployment as the user wants it; frozen, comparable, written into its plan.

    Attributes:
        name: name of the deployment: lower-case letters, digits and inner hyphens, at most 32.
        mode: `agg`: prefill and decode in one worker; `disagg`: in separate workers.
        model: a folder, a Hugging Face hub id, or smollm2-135m-instruct, which is built in. None:
            Qwen/Qwen3-0.6B on GPUs, smollm2-135m-instruct on a CPU.
        served_model_name: model name that clients use; others behind commas are its aliases. None: the
            model's own.
        device: device of the workers. `auto`: GPUs if there are any, else the CPU.
        engine: engine of the workers. `mocker`: Dynamo's stand-in for vLLM, without weights; its text is made
            up.
        gpus: GPU indices (as the caller's CUDA_VISIBLE_DEVICES counts them), ranges as in "0-3", or UUIDs or
            their beginnings, in the order in which workers take them; one that is named twice is shared.
            Empty: chosen.
        workers: number of workers (mode `agg`).
        decode: number of decode workers (mode `disagg`).
        prefill: number of prefill workers (mode `disagg`).
        tp: tensor parallelism: GPUs (ranks) of each worker.
        nvlink_multicast: `true`: the engines use NVLink multicast as NCCL, torch and NVSHMEM decide, or as
            your environment says. `false`: never; it takes memory of the whole NVLink fabric.
        host: address at which the frontend listens.
        port: HTTP port of the frontend.
        router_mode: policy by which the frontend picks a worker.
        migration_limit: maximum number of times that the frontend moves a request to another worker of the
            same role when its worker dies or leaves; 0: the request fails. Unset: 3.
        start: order of the start. `ordered`: prefill workers when decode is ready; `overlapped`: all workers
            together.
        timeout_s: deadline for the whole start, in seconds.
        hang_timeout_s: limit for one step of a vLLM engine, in seconds: a worker whose engine gives no sign
            of life for longer is restarted. After a third of it, the worker is out of discovery.
        standby: whether each vLLM worker that is up has a process that has imported the engine and waits, so
            that a restart takes less time. It takes about 0.6 GiB of host memory. Unset: on GPUs.
        drain_s: grace period for requests in flight when a worker is stopped, in seconds; requests that still
            run after it fail.
        otlp_endpoint: URL of an OpenTelemetry collector (OTLP over gRPC) that gets traces of the frontend and
            the workers, and Dynamo's logs. Unset: none are sent.
        discovery: service discovery. `file`: in a folder of this host; `etcd`: in an etcd that runs already,
            which several hosts can share.
        etcd_endpoints: URLs of that etcd. Unset: those in ETCD_ENDPOINTS.
        roles: roles to run on this host: frontend, decode, prefill (mode `disagg`) or frontend, agg (mode
            `agg`). The rest runs on other hosts, with the same name, mode and model. Empty: all.
        advertise: IPv4 address of this host, or network interface, at which the other hosts reach it. Unset:
            the loopback.
        lmcache: see the table `[lmcache]`.
        engine_args: arguments for every vLLM worker, passed on unchanged.
        prefill_args: further arguments for the prefill workers (mode `disagg`).
        decode_args: further arguments for the decode workers (mode `disagg`).
        env: environment variables for every unit. LMCache's settings among them are for LMCache alone, as
            those in `[lmcache.env]`. What the plan stands on, as GPUs and ports, cannot be set here.
    """

    name: Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})] = "default"
    mode: Mode = "agg"
    model: Name | None = None
    served_model_name: Annotated[Name | None, Field(examples=["my-model"])] = None
    device: Device = "auto"
    engine: Engine = "vllm"
    gpus: Annotated[tuple[str, ...], BeforeValidator(parse_gpus), WithJsonSchema(GPUS_SCHEMA)] = ()
    workers: Replicas = policies.REPLICAS
    decode: Replicas = policies.REPLICAS
    prefill: Replicas = policies.REPLICAS
    tp: Replicas = policies.REPLICAS
    nvlink_multicast: Annotated[bool, Field(strict=True)] = True
    host: Name = policies.LOOPBACK
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = policies.HTTP_PORT
    router_mode: RouterMode = policies.ROUTER_MODE
    migration_limit: Annotated[
        int | None, Field(strict=True, ge=0, le=100, examples=[policies.MIGRATION_LIMIT])
    ] = None
    start: StartOrder = "ordered"
    timeout_s: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = policies.START_TIMEOUT_S
    hang_timeout_s: Annotated[float, Field(strict=True, ge=60, le=86400)] = policies.HANG_TIMEOUT_S
    standby: Annotated[bool | None, Field(strict=True, examples=[True])] = None
    drain_s: Annotated[float, Field(strict=True, ge=0, le=3600)] = policies.DRAIN_S
    otlp_endpoint: Annotated[
        Text | None, BeforeValidator(parse_otlp), Field(examples=["http://127.0.0.1:4317"])
    ] = None
    discovery: Discovery = "file"
    etcd_endpoints: Annotated[
        tuple[Text, ...],
        BeforeValidator(parse_etcd),
        WithJsonSchema(ETCD_SCHEMA),
        Field(examples=[["http://10.0.0.1:2379"]]),
    ] = ()
    roles: Annotated[
        tuple[HostRole, ...],
        BeforeValidator(parse_roles),
        WithJsonSchema(ROLES_SCHEMA),
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
        if not NAME.fullmatch(value):
            raise ValueError(NAME_RULE)
        return value

    @model_validator(mode="after")
    def _roles_fit_the_mode(self) -> DeploymentSpec:
        asked = self.model_fields_set
        if self.mode == "agg":
            for field in ("decode", "prefill", "prefill_args", "decode_args"):
                if field in asked and getattr(self, field) != type(self).model_fields[field].default:
                    raise ValueError(f"{field}: only `up disagg` has prefill and decode workers")
        elif self.workers != 1:
            raise ValueError(
                "workers: `up disagg` has decode and prefill workers: set --decode and --prefill"
            )
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
                    f"roles: `up {self.mode}` has no {role}: choose from {', '.join(ROLES[self.mode])}"
                )
        if self.discovery == "file":
            for field in ("etcd_endpoints", "advertise"):
                if getattr(self, field):
                    raise ValueError(
                        f"{field}: discovery in a folder of this host needs none: add --discovery etcd"
                    )
            if self.elsewhere:
                raise ValueError(
                    f"roles: {' and '.join(self.elsewhere)} on another host cannot be found in a folder of"
                    " this host: add --discovery etcd and --etcd-endpoints"
                )
        elif not self.etcd_endpoints:
            raise ValueError(
                "etcd_endpoints: no endpoint given: add --etcd-endpoints http://HOST:2379, or set"
                " ETCD_ENDPOINTS"
            )
        if self.elsewhere and not self.advertise:
            raise ValueError(
                "advertise: other hosts must reach this one: add --advertise with its address or the name of"
                " a network interface"
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

    def arguments_of(self, role: str) -> tuple[str, ...]:
        """The engine arguments that the user gives the workers of a role."""
        own = {"decode": self.decode_args, "prefill": self.prefill_args}
        return (*self.engine_args, *own.get(role, ()))

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
        takes = "takes" if self.replicas == 1 else "take"
        message = f"gpus: {named} named, but {workers} with tensor parallelism {self.tp} {takes} {need}"
        if named > need and self.mode == "agg":
            return message + f": name {need}, or add --workers {named} or --tp {named}"
        if named < need:
            return message + ": name more, or one twice to share it (as in --gpus 0,0)"
        return message + ": name fewer, or ask for more workers"
