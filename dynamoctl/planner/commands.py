"""Each unit's command line and environment."""

from __future__ import annotations

import json
from itertools import pairwise

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner import (
    connectors,
    discovery,
    gpu_memory,
    kv_cache,
    lmcache,
    migration,
    patching,
    secrets,
    tiers,
)
from dynamoctl.planner.connectors import CacheMode, Connector, Device
from dynamoctl.planner.discovery import Address
from dynamoctl.planner.plan import Gate, Unit, reachable
from dynamoctl.planner.topology import Placement, Ports

# vLLM 0.26 takes one; the others are for a neighbour in the way.
_ENGINE_PORTS = 4
# The KV router needs to hear what each worker's cache holds; off by default in vLLM. The events have the
# prompts' tokens, and vLLM listens for them on every interface unless the address is a Unix socket: here in
# the worker's own working folder, where nobody else may go.
_KV_EVENTS = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "ipc://kv-events"}

# Arguments of the engine that the planner decides, and how to say what is wanted: ports, GPUs, memory and
# the names under which workers find each other follow from them.
_OWNED = {
    "--model": "name it before the --, as in: dynamoctl up agg --model NAME",
    "--served-model-name": "give --served-model-name before the --",
    "--tensor-parallel-size": "give --tp before the --",
    "-tp": "give --tp before the --",
    "--disaggregation-mode": "`up agg` and `up disagg` give each worker its own",
    "--kv-transfer-config": "it follows from the mode and from --lmcache-mode or --no-lmcache",
    "--kv-events-config": "--router-mode kv, before the --, turns KV events on",
    "--host": "the frontend listens for clients: give --host before the --",
    "--port": "the frontend listens for clients: give --port before the --",
    "--connector": "Dynamo no longer takes it; it follows from the mode and from LMCache's flags",
}

# Taken out of every unit's environment, each for its reason:
UNSET = (
    "DYN_CONNECTOR",  # an error for dynamo.vllm if it is set at all
    "ENABLE_LMCACHE",  # turned into the plan
    "LMCACHE_CONFIG_FILE",  # turned into the plan
    "PROMETHEUS_MULTIPROC_DIR",  # Dynamo makes one; LMCache's metrics vanish in a foreign one
    "PYTHONDONTWRITEBYTECODE",  # every process would compile its imports at every start
)
# Beside the workers, nobody has a status server; the caller's port would be a worker's or taken.
UNSET_BESIDE_WORKERS = (*UNSET, "DYN_SYSTEM_PORT")


def namespace(spec: DeploymentSpec) -> str:
    """Dynamo's namespace of this deployment; deployments side by side do not see each other."""
    return f"dynamoctl-{spec.name}"


def common_environment(spec: DeploymentSpec, model: ModelFacts, store: str, at: Address) -> dict[str, str]:
    """What every unit gets."""
    # A model that is a folder needs no hub: without this the frontend asks the hub for a mocker's
    # tokenizer, by the name under which the model is served.
    hub = {"HF_HUB_OFFLINE": "1"} if model.is_folder else {}
    return {
        **hub,
        **discovery.environment(spec, at, store),
        "DYN_NAMESPACE": namespace(spec),
        # The same on every process and every host, or block hashes differ and nothing hits across workers.
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        # vLLM's process titles would wipe /proc/PID/environ, by which leftovers are known.
        "SPT_NOENV": "1",
        # Dynamo would write SGLang's logging configuration to a temporary file at every start, and leave it.
        "DYN_SKIP_SGLANG_LOG_FORMATTING": "1",
        "LMCACHE_TRACK_USAGE": "false",
        "LMCACHE_DISABLE_BANNER": "1",
        **spec.env,
    }


def frontend(spec: DeploymentSpec, facts: HostFacts, model: ModelFacts, store: str, at: Address) -> Unit:
    """The HTTP server and router."""
    return Unit(
        name="frontend",
        role="frontend",
        argv=(
            facts.python, "-m", "dynamo.frontend",
            "--http-host", spec.host,
            "--http-port", str(spec.port),
            "--router-mode", spec.router_mode,
            "--namespace", namespace(spec),
            *migration.arguments(spec),
        ),
        env=common_environment(spec, model, store, at),
        unset=UNSET_BESIDE_WORKERS,
        ports={"http": spec.port},
        gate=Gate("http", spec.port, "/health", reachable(spec.host)),
    )  # fmt: skip


def cache_server(
    spec: DeploymentSpec,
    facts: HostFacts,
    model: ModelFacts,
    store: str,
    at: Address,
    gib: float,
    ports: Ports,
) -> Unit:
    """LMCache's server (mp mode): one for the host."""
    port, http_port = ports.take(), ports.take()
    arguments = lmcache.server_arguments(spec.lmcache, gib, port, http_port)
    return Unit(
        name="lmcache",
        role="cache",
        argv=(facts.python, "-m", "dynamoctl.processes.cache_server", *arguments),
        env={
            **common_environment(spec, model, store, at),
            **tiers.server_environment(spec.lmcache),
            **spec.lmcache.env,
            **spec.env,
        },
        unset=UNSET_BESIDE_WORKERS,
        ports={"zmq": port, "http": http_port},
        gate=Gate("http", http_port, "/healthcheck"),
    )


def worker(
    spec: DeploymentSpec,
    facts: HostFacts,
    model: ModelFacts,
    store: str,
    at: Address,
    device: Device,
    cache: CacheMode | None,
    gib: float,
    cache_port: int | None,
    place: Placement,
    ports: Ports,
    after: tuple[str, ...],
) -> Unit:
    """One vLLM engine under Dynamo."""
    if spec.engine == "mocker":
        return _mocker(spec, facts, model, store, at, place, ports.take(), after)
    config = connectors.kv_transfer_config(place.role, cache, device, cache_port)
    own_ports = {"system": ports.take(), "engine": ports.take_row(_ENGINE_PORTS)}
    env = {
        **common_environment(spec, model, store, at),
        "DYN_SYSTEM_PORT": str(own_ports["system"]),
        # Where vLLM looks for ports of its own (torch's store). Without it each engine takes any that is
        # free at that moment and binds it seconds later: two that start together have met on one.
        "VLLM_PORT": str(own_ports["engine"]),
        # Else the ranks of an engine listen at the address that the host's name leads to.
        "GLOO_SOCKET_IFNAME": "lo",
        # The gate asks a loading worker again and again; each 503 would be logged as an error.
        "DYN_LOG": "info,tower_http::trace=off",
        # `down` removes the registration at once; the grace period is for clients of a worker that
        # leaves while others stay.
        "DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS": "0",
        "DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS": f"{spec.drain_s:g}",
    }
    uses_nixl = connectors.uses_nixl(config)
    env |= patching.environment(
        patching.PatchedWorker(
            role=place.role,
            device=device,
            ranks=spec.tp,
            cache=cache,
            uses_nixl=uses_nixl,
            between_hosts=discovery.between_hosts(spec),
            versions=facts.versions,
        )
    )
    if uses_nixl:
        own_ports["nixl"] = ports.take_row(spec.tp)
        env |= connectors.side_channel_environment(own_ports["nixl"])
        env |= discovery.transfer_environment(spec, at, device)
    if cache == "inproc" and place.role != "decode":
        env |= lmcache.environment(spec.lmcache, gib)
    events: tuple[str, ...] = ()
    if spec.router_mode == "kv":
        events = ("--kv-events-config", _compact(_KV_EVENTS))
    own_arguments = {"decode": spec.decode_args, "prefill": spec.prefill_args}.get(place.role, ())
    user_arguments = (*spec.engine_args, *own_arguments)
    _check_arguments(user_arguments)
    if device == "cpu":
        profile, profile_env = _cpu_profile(place, spec.tp, uses_nixl)
    else:
        profile, profile_env = gpu_memory.utilization_arguments(place), _gpu_environment(place)
        if spec.start == "overlapped":
            profile += gpu_memory.kv_cache_arguments(place, facts, model, spec.tp, user_arguments)
    return Unit(
        name=place.name,
        role=place.role,
        argv=(
            facts.python, "-m", "dynamo.vllm",
            "--model", model.path,
            "--served-model-name", model.served_name,
            "--disaggregation-mode", place.role,
            *(("--tensor-parallel-size", str(spec.tp)) if spec.tp > 1 else ()),
            "--kv-transfer-config", _compact(config),
            *connectors.hybrid_cache_arguments(place.role),
            *events,
            *kv_cache.dtype_arguments(model, device),
            *profile,
            *user_arguments,
        ),
        gpus=place.gpus,
        env={**env, **profile_env, **spec.env},
        unset=UNSET,
        ports=own_ports,
        kv_transfer_config=config,
        after=after,
        gate=Gate("http", own_ports["system"], "/health"),
    )  # fmt: skip


def _check_arguments(arguments: tuple[str, ...]) -> None:
    """The user's own arguments win over the planner's, but for those on which the rest of the plan stands.

    Raises:
        SpecError: a token or password is among them, which every user of the machine could read; or what the
            planner decides.
    """
    for word, after in pairwise((*arguments, "")):
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-")
        has_value = bool(equals) or bool(after and not after.startswith("-"))
        if name.startswith("--") and secrets.is_secret_name(name.replace("-", "_")) and has_value:
            raise SpecError(
                f"engine arguments: the value of {name} would be in the worker's command line, for everybody"
                " to read",
                "set it in the environment or in [env], as HF_TOKEN",
            )
        if name in _OWNED:
            raise SpecError(f"engine arguments: {name} is decided by the plan", _OWNED[name])


def _mocker(
    spec: DeploymentSpec,
    facts: HostFacts,
    model: ModelFacts,
    store: str,
    at: Address,
    place: Placement,
    system_port: int,
    after: tuple[str, ...],
) -> Unit:
    """Dynamo's mocker: registers and answers like an engine, with no weights and made-up text."""
    role = () if place.role == "agg" else ("--disaggregation-mode", place.role)
    return Unit(
        name=place.name,
        role=place.role,
        argv=(
            facts.python, "-m", "dynamo.mocker",
            "--model-path", model.path,
            "--model-name", model.served_name,
            "--speedup-ratio", "10",
            *role,
            *spec.engine_args,
        ),
        # With a system port and no hub, the frontend gets the tokenizer's files from the mocker itself, which
        # must then be reached by a frontend on another host as well.
        env={
            **common_environment(spec, model, store, at),
            "DYN_SYSTEM_HOST": at.host,
            "DYN_SYSTEM_PORT": str(system_port),
            "DYN_SELF_HOST_METADATA": "1",
            **spec.env,
        },
        unset=UNSET,
        ports={"system": system_port},
        after=after,
        gate=Gate("endpoint", system_port, "/health", at.host),
    )  # fmt: skip


def _cpu_profile(place: Placement, ranks: int, nixl: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """What makes vLLM usable on few cores; measured: 27 s to ready instead of 43 s on two."""
    env = {
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        # A CUDA build of torch that finds a GPU would take it.
        "CUDA_VISIBLE_DEVICES": "",
    }
    if place.threads or nixl:
        # Threads bound to one core stood still for 30 s at a time on a virtual machine that had put that
        # core aside. And beside NIXL's own threads a token took 1.95 s, bound to none 0.025 s.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if place.threads:
        # A thread for each core of its share: two engines with a thread for every core starve each other's
        # event loops.
        env["OMP_NUM_THREADS"] = str(max(1, place.threads // ranks))
    arguments = ("--enforce-eager", "--max-model-len", "2048", "--max-num-batched-tokens", "512")
    return arguments, env


def _gpu_environment(place: Placement) -> dict[str, str]:
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in place.gpus),
        # CUDA's own order is by speed; NVML's and the user's is by bus.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NCCL_SOCKET_IFNAME": "lo",  # as Gloo's
        # No NVLink multicast in NCCL, PyTorch and NVSHMEM: it takes memory of the whole NVLink fabric, which
        # others may share, and an engine that is killed can leave it held. Collectives go over plain NVLink.
        "NCCL_NVLS_ENABLE": "0",
        "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
        "NVSHMEM_DISABLE_NVLS": "1",
    }


def _compact(value: Connector) -> str:
    return json.dumps(value, separators=(",", ":"))
