"""The plan: everything that will be started, in order, with nothing left to decide.

A plan is plain data. `--dry-run` prints it, the supervisor runs it, `export` renders it for another
runner. Its JSON form (`dynamoctl/plan/v1`) is a promise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from dynamoctl import policies
from dynamoctl.planner.arguments import argument, is_given
from dynamoctl.planner.secrets import redact

SCHEMA = "dynamoctl/plan/v1"

Role = Literal["frontend", "cache", "agg", "decode", "prefill"]
WORKER_ROLES: tuple[Role, ...] = ("agg", "decode", "prefill")


@dataclass(frozen=True)
class Gate:
    """What makes a unit ready: its own process answers so at this address of the host.

    Attributes:
        kind: `http`: the answer is 200; `endpoint`: the answer's JSON says that the endpoint
            `generate` is ready (a mocker's answer as a whole never is).
        port: the number of the port that is asked; the listener must belong to the unit's own
            process tree.
        path: the path that is asked.
        host: the address that is asked.
    """

    kind: Literal["http", "endpoint"]
    port: int
    path: str
    host: str = "127.0.0.1"

    @property
    def origin(self) -> str:
        """The URL that every path of this unit begins with."""
        return f"http://{self.host}:{self.port}"

    def __str__(self) -> str:
        answer = "is 200" if self.kind == "http" else "says endpoint generate is ready"
        host = "" if self.host == "127.0.0.1" else self.host
        return f"GET {host}:{self.port}{self.path} {answer}"


def started_with(
    caller: Mapping[str, str], env: Mapping[str, str], unset: Collection[str] = ()
) -> dict[str, str]:
    """The environment of a process: the caller's, less what is taken away, and what is added to it.

    Everything that starts a unit, or asks what it will see, asks here.
    """
    return {**{name: value for name, value in caller.items() if name not in unset}, **env}


def reachable(host: str) -> str:
    """The host of a URL by which this host reaches what listens at an address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


@dataclass(frozen=True)
class Reason:
    """Why a unit has a variable or a flag: a rule of `planner.rules`, as it was applied.

    Attributes:
        rule: the name of the rule (docs/rules.md); `user-environment` for what the user sets.
        sets: a variable, a flag, or a key of the KV transfer config (`kv_transfer_config.KEY`).
        value: what the rule gives it; empty for a flag without a value; None if the variable is taken away.
        why: the reason.
        source: where the reason was found: `package==version:path:symbol`, an issue, or a measurement.
        without: what happens without it.
        override_expected: whether users have good reasons to set another value.
    """

    rule: str
    sets: str
    value: str | None
    why: str
    source: str
    without: str = ""
    override_expected: bool = True

    @property
    def is_variable(self) -> bool:
        """Whether it sets an environment variable, or takes one away."""
        return not self.is_flag and not self.sets.startswith("kv_transfer_config.")

    @property
    def is_flag(self) -> bool:
        """Whether it adds an argument to the command line."""
        return self.sets.startswith("--")

    def as_json(self) -> dict[str, Any]:
        """Its form in `up --dry-run --why --json`."""
        return {**asdict(self), "value": redact(self.value, self.sets)}


@dataclass(frozen=True)
class Unit:
    """One process tree of the deployment.

    Attributes:
        name: `frontend`, `lmcache`, `worker-0`, `decode-0`, `prefill-0`, ...
        gpus: what the unit sees as CUDA_VISIBLE_DEVICES: indices (int) or UUIDs (str).
        env: what the plan adds to the caller's environment.
        unset: what it takes away from it.
        ports: name -> number, each of this unit alone.
        kv_transfer_config: what vLLM gets as `--kv-transfer-config`; None where it gets none.
        after: the units whose gates must have passed before this one starts.
        why: only with `--why`: the reason for each variable and flag that a rule sets.
    """

    name: str
    role: Role
    argv: tuple[str, ...]
    gate: Gate
    gpus: tuple[int | str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    kv_transfer_config: Mapping[str, Any] | None = None
    after: tuple[str, ...] = ()
    why: tuple[Reason, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_worker(self) -> bool:
        """Whether it runs a model, as against the frontend and the cache server."""
        return self.role in WORKER_ROLES

    def environ(self, caller: Mapping[str, str]) -> dict[str, str]:
        """The environment that it is started with."""
        return started_with(caller, self.env, self.unset)

    def has(self, reason: Reason) -> bool:
        """Whether what a rule sets still holds: no environment or argument of the user's overrides it."""
        if reason.value is None:
            return reason.sets not in self.env
        if reason.is_variable:
            return self.env.get(reason.sets) == reason.value
        if reason.is_flag and reason.value:
            return argument(self.argv, reason.sets) == reason.value
        if reason.is_flag and self.is_worker:
            return is_given(self.argv, reason.sets)
        return True


@dataclass(frozen=True)
class Tier:
    """Where LMCache keeps KV blocks, below CPU memory.

    Attributes:
        place: a folder (`disk`, `gds`), a URL (`remote`), or the type of an adapter (`l2`).
        gib: what it may take on this host, GiB; 0 if no rank takes it; None where that is not ours to say.
    """

    kind: Literal["disk", "remote", "gds", "l2"]
    place: str
    gib: float | None = None


@dataclass(frozen=True)
class Setting:
    """One of LMCache's settings: what it is, and where that was said (`default`, a flag, a file, ...)."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class Note:
    """What the user should know about how the plan was made.

    Attributes:
        what: what was decided, and why.
        fix: what to do if that is not meant.
    """

    what: str
    fix: str


@dataclass(frozen=True)
class DeploymentPlan:
    """A whole deployment.

    Attributes:
        model: the name under which it is served.
        model_aliases: other names under which it is served, too.
        model_path: what the engine loads: a folder or a hub id.
        host, port: where the frontend listens.
        home: the folder of the deployment.
        store: the folder of Dynamo's file discovery, fresh at every start.
        timeout_s: the deadline for the whole start, seconds.
        drain_s: what requests in flight get at the end, seconds.
        hang_timeout_s: how long a step of an engine may take before its worker is restarted, seconds.
        standby: whether each vLLM worker that is up has a process that waits to replace it.
        lmcache: `inproc`, `mp`, or None where LMCache is off.
        lmcache_cpu_gib: the CPU memory that LMCache takes on this host, all ranks together, GiB.
        lmcache_tiers: where else LMCache keeps KV blocks, nearest first.
        lmcache_settings: what LMCache is told, for people.
        discovery: where its processes find each other: `file`: in `store`; `etcd`: in an etcd.
        etcd_endpoints: the URLs of that etcd's members.
        address: where its other hosts reach what runs here; the loopback on one host alone.
        elsewhere: its roles that run on other hosts.
        lmcache_tokens: how many tokens' KV cache fit into its CPU memory: that of each caching rank in
            process, that of the host with a server; None where the model's shape is not known.
        notes: what the user should know about how it was made; `up` and `doctor` warn of it.
    """

    name: str
    mode: Literal["agg", "disagg"]
    device: Literal["cuda", "cpu"]
    engine: Literal["vllm", "mocker"]
    model: str
    model_path: str
    host: str
    port: int
    home: str
    store: str
    timeout_s: float
    drain_s: float
    lmcache: Literal["inproc", "mp"] | None
    lmcache_cpu_gib: float
    units: tuple[Unit, ...]
    model_aliases: tuple[str, ...] = ()
    lmcache_tiers: tuple[Tier, ...] = ()
    lmcache_settings: tuple[Setting, ...] = ()
    lmcache_tokens: int | None = None
    discovery: Literal["file", "etcd"] = "file"
    etcd_endpoints: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    hang_timeout_s: float = policies.HANG_TIMEOUT_S
    standby: bool = False
    elsewhere: tuple[Role, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def endpoint(self) -> str:
        """The base URL that a client on this machine uses; empty where the frontend is on another host."""
        return f"http://{reachable(self.host)}:{self.port}" if self.frontend else ""

    @property
    def frontend(self) -> Unit | None:
        """The frontend, where it runs on this host."""
        return next((unit for unit in self.units if unit.role == "frontend"), None)

    @property
    def moves_kv_cache(self) -> bool:
        """Whether a request's KV cache goes from one worker to another (the mocker only pretends)."""
        return self.mode == "disagg" and self.engine == "vllm"

    @property
    def workers(self) -> tuple[Unit, ...]:
        """The units that run the model."""
        return tuple(unit for unit in self.units if unit.is_worker)

    def unit(self, name: str) -> Unit:
        """The unit with that name; KeyError if there is none."""
        for unit in self.units:
            if unit.name == name:
                return unit
        raise KeyError(name)

    def as_json(self, why: bool = False) -> dict[str, Any]:
        """The plan's JSON form, without the envelope.

        Args:
            why: with the reasons of each unit.
        """
        body = asdict(replace(self, units=tuple(replace(unit, why=()) for unit in self.units)))
        for unit, of_unit in zip(self.units, body["units"], strict=True):
            del of_unit["why"]
            if why:
                of_unit["why"] = [reason.as_json() for reason in unit.why]
        body["endpoint"] = self.endpoint
        return body

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> DeploymentPlan:
        """Read back what `as_json` wrote. Raises KeyError or TypeError on anything else."""
        fields = {name: body[name] for name in DeploymentPlan.__dataclass_fields__ if name in body}
        fields["lmcache_tiers"] = tuple(Tier(**tier) for tier in body.get("lmcache_tiers", ()))
        units = tuple(
            Unit(
                **{
                    **{key: value for key, value in unit.items() if key != "why"},
                    "gate": Gate(**unit["gate"]),
                    **{key: tuple(unit[key]) for key in ("argv", "gpus", "unset", "after")},
                }
            )
            for unit in body["units"]
        )
        listed = ("etcd_endpoints", "elsewhere", "model_aliases")
        fields |= {key: tuple(body.get(key, ())) for key in listed}
        fields["notes"] = tuple(Note(**note) for note in body.get("notes", ()))
        fields["lmcache_settings"] = tuple(Setting(**one) for one in body.get("lmcache_settings", ()))
        return DeploymentPlan(**{**fields, "units": units})
