"""The flags that make a plan. Every command that plans takes them all: `up`, `doctor`, `init`.

Defaults are shown here and applied by `config`: both read `dynamoctl.policies`.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from dynamoctl import policies
from dynamoctl.cli import completers
from dynamoctl.config.choices import (
    CONFIG_NAME,
    ROLES,
    ROUTER_MODES,
    Device,
    Discovery,
    Engine,
    LMCacheMode,
    Mode,
    RouterMode,
    StartOrder,
)
from dynamoctl.errors import SpecError

Flags = dict[str, Any]

_REPLICAS = str(policies.REPLICAS)
_ENGINE = "Engine"
_CACHE = "LMCache"
_PLACE = "Workers"
_HOSTS = "Several hosts"


def plan_flags(
    mode: Annotated[
        Mode | None,
        typer.Argument(help="agg: prefill and decode in one worker; disagg: in separate workers."),
    ] = None,
    engine_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- VLLM ARGUMENTS]", help="Passed unchanged to every vLLM worker."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            help="Name of the deployment.",
            show_default="default",
            autocompletion=completers.deployments,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=f"Folder, Hugging Face hub id, or {policies.BUILTIN_MODEL}, which is built in.",
            show_default=f"{policies.GPU_MODEL} on GPUs, {policies.BUILTIN_MODEL} on a CPU",
            autocompletion=completers.models,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            help="Model name that clients use; others behind commas are its aliases.",
            show_default="the model's own",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="TOML file to read; flags override it.",
            show_default=f"./{CONFIG_NAME} if it exists",
            autocompletion=completers.toml_files,
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus",
            "-g",
            help="GPU indices, ranges or UUIDs, as in 0-3,6; name one twice to share it.",
            autocompletion=completers.gpus,
            rich_help_panel=_PLACE,
        ),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            help="Device of the workers.", show_default="GPUs if there are any", rich_help_panel=_PLACE
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of workers (agg).", show_default=_REPLICAS, rich_help_panel=_PLACE),
    ] = None,
    decode: Annotated[
        int | None,
        typer.Option(
            help="Number of decode workers (disagg).", show_default=_REPLICAS, rich_help_panel=_PLACE
        ),
    ] = None,
    prefill: Annotated[
        int | None,
        typer.Option(
            help="Number of prefill workers (disagg).", show_default=_REPLICAS, rich_help_panel=_PLACE
        ),
    ] = None,
    tp: Annotated[
        int | None,
        typer.Option(
            "--tp",
            help="Tensor parallelism: GPUs of each worker.",
            show_default=_REPLICAS,
            rich_help_panel=_PLACE,
        ),
    ] = None,
    no_multicast: Annotated[
        bool,
        typer.Option("--no-multicast", help="Never use NVLink multicast.", rich_help_panel=_PLACE),
    ] = False,
    start: Annotated[
        StartOrder | None,
        typer.Option(
            help="Start prefill workers once decode is ready (ordered), or all workers together.",
            show_default="ordered",
            rich_help_panel=_PLACE,
        ),
    ] = None,
    lmcache: Annotated[
        bool | None,
        typer.Option(
            "--lmcache/--no-lmcache",
            help="Keep and reuse the KV cache across requests.",
            show_default="on",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_mode: Annotated[
        LMCacheMode | None,
        typer.Option(
            help="Run LMCache in the engine (inproc), or as a server beside it (mp).",
            show_default="mp; inproc on GPUs with versions that it was run with",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_chunk_size: Annotated[
        int | None,
        typer.Option(
            help="Chunk size, in tokens.", show_default=str(policies.CHUNK_TOKENS), rich_help_panel=_CACHE
        ),
    ] = None,
    lmcache_cpu_gb: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="CPU memory per rank (mp: per host), in GiB: 20, 20GiB, 20GB or auto.",
            show_default=f"{policies.CACHE_CPU_GIB['cuda']:g}, on a CPU {policies.CACHE_CPU_GIB['cpu']:g};"
            f" in total at most {policies.CACHE_CPU_SHARE:.0%} of the available memory",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_disk: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder of a disk tier.", show_default="none", rich_help_panel=_CACHE
        ),
    ] = None,
    lmcache_disk_gb: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Size of the disk tier per rank (mp: per host), in GiB: 100, 100GiB or 100GB.",
            show_default="none",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_remote: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Remote store that others can share, as in redis://host:6379.",
            show_default="none",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    lmcache_gds: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of a tier that GPUs access directly (GPUDirect Storage).",
            show_default="none",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="Engine of the workers; mocker: Dynamo's stand-in, without weights.",
            show_default="vllm",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    decode_args: Annotated[
        str | None,
        typer.Option(
            metavar="ARGUMENTS",
            help="Further arguments for decode workers, quoted: '--max-num-seqs 64'.",
            show_default="none",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    prefill_args: Annotated[
        str | None,
        typer.Option(
            metavar="ARGUMENTS",
            help="Further arguments for prefill workers, quoted.",
            show_default="none",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    router_mode: Annotated[
        RouterMode | None,
        typer.Option(
            metavar="MODE",  # the names would take the whole width
            help=f"Policy by which the frontend picks a worker: {', '.join(ROUTER_MODES)}.",
            show_default=policies.ROUTER_MODE,
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    migration_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Maximum number of moves of a request whose worker dies or leaves; 0: it fails.",
            show_default=str(policies.MIGRATION_LIMIT),
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address at which the frontend listens.", show_default=policies.LOOPBACK),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", help="HTTP port of the frontend.", show_default=str(policies.HTTP_PORT)),
    ] = None,
    discovery: Annotated[
        Discovery | None,
        typer.Option(
            help="Service discovery: in a folder of this host, or in an etcd that several share.",
            show_default="file",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    etcd_endpoints: Annotated[
        str | None,
        typer.Option(
            metavar="URLS",
            help="Comma-separated URLs of etcd, as in http://10.0.0.1:2379.",
            show_default="$ETCD_ENDPOINTS",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            metavar="ROLES",
            help="Comma-separated roles to run on this host: "
            f"{', '.join(ROLES['disagg'])} (disagg) or {', '.join(ROLES['agg'])} (agg).",
            show_default="all",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address or interface of this host for the other hosts.",
            show_default="the loopback",
            rich_help_panel=_HOSTS,
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenTelemetry collector for traces (OTLP over gRPC), as in http://127.0.0.1:4317.",
            show_default="none",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Deadline for the whole start, in seconds.",
            show_default=f"{policies.START_TIMEOUT_S:g}",
        ),
    ] = None,
    hang_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Limit for one step of an engine, in seconds; its worker is then restarted as hung.",
            show_default=f"{policies.HANG_TIMEOUT_S:g}",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    standby: Annotated[
        bool | None,
        typer.Option(
            "--standby/--no-standby",
            help="Keep a process that has imported the engine ready for the next start of each vLLM worker.",
            show_default="on GPUs",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    drain: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Grace period for in-flight requests at shutdown, in seconds; requests still running after"
            " it fail.",
            show_default=f"{policies.DRAIN_S:g}",
        ),
    ] = None,
) -> Flags:
    """What was given, by the spec's names, and `config`; None where nothing was."""
    if engine_args and not engine_args[0].startswith("-"):
        raise SpecError(
            f"unexpected argument '{engine_args[0]}'",
            "arguments for vLLM go last, after --; a deployment's name goes after -n",
        )
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
        "nvlink_multicast": False if no_multicast else None,
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
        "standby": standby,
        "drain_s": drain,
        "otlp_endpoint": otlp_endpoint,
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
