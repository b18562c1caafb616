"""The flags that make a plan. Every command that plans takes them all: `up`, `doctor`, `init`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from typer.models import OptionInfo

from dynamoctl.cli import completers
from dynamoctl.cli.options import show
from dynamoctl.errors import SpecError

Flags = dict[str, Any]

# As `spec.RouterMode`, whose import is slow; a test holds them together.
RouterMode = Literal[
    "round-robin", "random", "power-of-two", "kv", "direct", "least-loaded", "device-aware-weighted"
]

_ENGINE = "Engine"
_CACHE = "LMCache"
_PLACE = "Workers"
_HOSTS = "Several hosts"


def _flags(
    mode: Annotated[
        Literal["agg", "disagg"] | None,
        typer.Argument(help="agg: prefill and decode in one worker; disagg: in workers of their own."),
    ] = None,
    engine_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- VLLM ARGUMENTS]", help="Handed to every vLLM worker untouched."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            help="The deployment's name.",
            show_default="default",
            autocompletion=completers.deployments,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A folder, a hub id, or smollm2-135m-instruct, which is built in.",
            show_default="Qwen/Qwen3-0.6B on GPUs, smollm2-135m-instruct on a CPU",
            autocompletion=completers.models,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="The name that clients use.", show_default="the model's own")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="A TOML file; flags win over it.",
            show_default="./dynamoctl.toml if there",
            autocompletion=completers.toml_files,
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus",
            "-g",
            help="Indices or UUIDs, as in 0,1; one named twice is shared.",
            autocompletion=completers.gpus,
            rich_help_panel=_PLACE,
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cuda", "cpu"] | None,
        typer.Option(help="Where workers run.", show_default="GPUs if there", rich_help_panel=_PLACE),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Replicas (agg).", show_default="1", rich_help_panel=_PLACE)
    ] = None,
    decode: Annotated[
        int | None, typer.Option(help="Decode replicas (disagg).", show_default="1", rich_help_panel=_PLACE)
    ] = None,
    prefill: Annotated[
        int | None, typer.Option(help="Prefill replicas (disagg).", show_default="1", rich_help_panel=_PLACE)
    ] = None,
    tp: Annotated[
        int | None,
        typer.Option(
            "--tp", help="Tensor parallelism: GPUs of one worker.", show_default="1", rich_help_panel=_PLACE
        ),
    ] = None,
    start: Annotated[
        Literal["ordered", "overlapped"] | None,
        typer.Option(
            help="Start prefill when decode is ready, or all together.",
            show_default="ordered",
            rich_help_panel=_PLACE,
        ),
    ] = None,
    lmcache: Annotated[
        bool | None,
        typer.Option(
            "--lmcache/--no-lmcache",
            help="Keep and reuse the KV cache.",
            show_default="on",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_mode: Annotated[
        Literal["auto", "inproc", "mp"] | None,
        typer.Option(
            help="In the engine, or a server beside it.",
            show_default="inproc on GPUs, mp on a CPU",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_chunk_size: Annotated[
        int | None, typer.Option(help="Tokens per chunk.", show_default="256", rich_help_panel=_CACHE)
    ] = None,
    lmcache_cpu_gb: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="CPU memory, per rank (mp: per host): 20 (GiB), 20GiB, 20GB, or auto.",
            show_default="20, on a CPU 1; in all at most half of what is free",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_disk: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Keep it on a local disk too.", show_default="none", rich_help_panel=_CACHE
        ),
    ] = None,
    lmcache_disk_gb: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What it may take there, per rank (mp: per host).",
            show_default="none",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_remote: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Keep it in a store that others share, as in redis://host:6379.",
            show_default="none",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_gds: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep it on a disk that GPUs reach directly (GPUDirect Storage).",
            show_default="none",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    engine: Annotated[
        Literal["vllm", "mocker"] | None,
        typer.Option(
            help="mocker: Dynamo's own, no weights, made-up text.",
            show_default="vllm",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    decode_args: Annotated[
        str | None,
        typer.Option(
            metavar="ARGUMENTS",
            help="More for decode workers alone, in one word: '--max-num-seqs 64'.",
            show_default="none",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    prefill_args: Annotated[
        str | None,
        typer.Option(
            metavar="ARGUMENTS",
            help="More for prefill workers alone.",
            show_default="none",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    router_mode: Annotated[
        RouterMode | None,
        typer.Option(
            metavar="MODE",  # the names would take the whole width
            help=f"How the frontend picks a worker: {', '.join(get_args(RouterMode))}.",
            show_default="round-robin",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    migration_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Moves of a request to another worker when its worker dies; 0: it fails.",
            show_default="3 with two workers of a role or with etcd, else 0",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Where the frontend listens.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="Its HTTP port.", show_default="8000")
    ] = None,
    discovery: Annotated[
        Literal["file", "etcd"] | None,
        typer.Option(
            help="Find each other in a folder of this host, or in an etcd that several share.",
            show_default="file",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    etcd_endpoints: Annotated[
        str | None,
        typer.Option(
            metavar="URLS",
            help="Where etcd answers, as in http://10.0.0.1:2379.",
            show_default="$ETCD_ENDPOINTS",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            metavar="ROLES",
            help="What runs on this host: of frontend, decode, prefill (agg: frontend, agg).",
            show_default="all",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="This host's address, or interface, for the other hosts.",
            show_default="the loopback",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds until it must be ready.", show_default="1800")
    ] = None,
    hang_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long one step of an engine may take before its worker is restarted as hung.",
            show_default="180",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    drain: Annotated[
        float | None,
        typer.Option(
            help="Seconds that requests in flight get when it is taken down, then an error.",
            show_default="5",
        ),
    ] = None,
) -> Flags:
    """What was given, by the spec's names, and `config`; None where nothing was."""
    if engine_args and not engine_args[0].startswith("-"):
        raise SpecError(f"unexpected argument '{engine_args[0]}'", "arguments for vLLM go last, after --")
    return {
        "name": name,
        "mode": mode,
        "model": model,
        "served_model_name": served_model_name,
        "gpus": gpus,
        "device": device,
        "workers": workers,
        "decode": decode,
        "prefill": prefill,
        "tp": tp,
        "start": start,
        "lmcache.enabled": lmcache,
        "lmcache.mode": lmcache_mode,
        "lmcache.chunk_size": lmcache_chunk_size,
        "lmcache.cpu_gb": lmcache_cpu_gb,
        "lmcache.disk": lmcache_disk,
        "lmcache.disk_gb": lmcache_disk_gb,
        "lmcache.remote": lmcache_remote,
        "lmcache.gds": lmcache_gds,
        "engine": engine,
        "router_mode": router_mode,
        "migration_limit": migration_limit,
        "host": host,
        "port": port,
        "timeout_s": timeout,
        "hang_timeout_s": hang_timeout,
        "drain_s": drain,
        "discovery": discovery,
        "etcd_endpoints": etcd_endpoints,
        "roles": roles,
        "advertise": advertise,
        "engine_args": tuple(engine_args) if engine_args else None,
        "decode_args": words("--decode-args", decode_args),
        "prefill_args": words("--prefill-args", prefill_args),
        "config": config,
    }


def words(flag: str, given: str | None) -> tuple[str, ...] | None:
    """A flag's arguments, split as a shell does."""
    if given is None:
        return None
    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise SpecError(f"{flag}: {str(error).lower()}", "quote it as for a shell") from None


def takes_plan(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags, and `--config`, before its own.

    Args:
        command: gets what was given as its first argument, the config file's path as its second, and its own
            options by name.
    """
    return _with_flags(command, without=())


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags before its own, but not `--config`.

    Args:
        command: gets what was given as its first argument, and its own options by name.
    """
    return _with_flags(command, without=("config",))


def _with_flags(command: Callable[..., None], without: tuple[str, ...]) -> Callable[..., None]:
    shared = {
        name: one for name, one in signature(_flags, eval_str=True).parameters.items() if name not in without
    }
    taken = 1 if without else 2
    own = list(signature(command, eval_str=True).parameters.values())[taken:]

    @wraps(command)
    def run(**given: Any) -> None:
        flags = _flags(**{name: given.pop(name) for name in shared})
        config = flags.pop("config")
        command(flags, *(() if without else (config,)), **given)

    parameters = [*shared.values(), *own]
    for one in parameters:
        _show_default(one)
    show(run, parameters)
    return run


def _show_default(parameter: Parameter) -> None:
    """Move a default in words into the help: typer itself shows it in brackets, as in `(8000)`."""
    for info in parameter.annotation.__metadata__:
        if isinstance(info, OptionInfo) and isinstance(info.show_default, str):
            info.help = rf"{info.help} [dim]\[default: {info.show_default}][/dim]"
            info.show_default = False
