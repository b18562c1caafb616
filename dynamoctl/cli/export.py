"""`dynamoctl export`: what runs, for Prometheus and Grafana; a plan, for other runners."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, takes_name
from dynamoctl.cli.plan_command import takes_plan
from dynamoctl.cli.plan_flags import Flags

if TYPE_CHECKING:
    from dynamoctl.answers.export import Format, Program
    from dynamoctl.operations.export import ExportResult

app = typer.Typer(help="Hand a plan to another runner, or what runs to other programs.", no_args_is_help=True)

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="Write it there, not to stdout.", show_default=False),
]


_CLUSTER = "Cluster"


@app.command("k8s")
@takes_plan
def k8s(
    flags: Flags,
    config: Path | None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Of every pod.",
            show_default="Dynamo's own; a placeholder with LMCache in process",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    runtime_version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Its version of Dynamo, where the tag does not say it.",
            show_default="the tag",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            help="The namespace.", show_default="that of kubectl's context", rich_help_panel=_CLUSTER
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A Secret whose keys become variables of every pod, as HF_TOKEN; may be given again.",
            show_default="none",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    pull_secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A Secret to pull the image with.",
            show_default="none",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    pvc: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A volume claim with models (--model /models/NAME), or for those of the hub.",
            show_default="none",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    pvc_path: Annotated[
        str,
        typer.Option(metavar="PATH", help="Where pods mount it.", rich_help_panel=_CLUSTER),
    ] = "/models",
    shm: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Shared memory of a worker's pod.", rich_help_panel=_CLUSTER),
    ] = "8Gi",
    lmcache_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Of LMCache's server (--lmcache-mode mp).",
            show_default="what its operator takes",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """A manifest for Dynamo's Kubernetes operator: a DynamoGraphDeployment.

    It is planned for a cluster: this machine needs no GPU, and --gpus may be left out.
    """
    from dynamoctl.export.cluster import Cluster
    from dynamoctl.operations import export

    where = Cluster(
        image, runtime_version, namespace, tuple(secret or ()), tuple(pull_secret or ()), pvc, pvc_path, shm,
        lmcache_image,
    )  # fmt: skip
    _hand_out_plan("k8s", "manifest", export.k8s(flags, config, where), output, json)


@app.command("shell")
@takes_plan
def shell(flags: Flags, config: Path | None, output: Output = None, json: Json = False) -> None:
    """A bash script that runs the plan on this machine without a supervisor.

    It waits at the same gates and stops in reverse. Secrets are taken from the environment.
    """
    from dynamoctl.operations import export

    _hand_out_plan("shell", "script", export.shell(flags, config), output, json)


@app.command("systemd")
@takes_plan
def systemd(
    flags: Flags,
    config: Path | None,
    scope: Annotated[
        Literal["user", "system"], typer.Option(help="The user's own manager, or the machine's.")
    ] = "user",
    run_as: Annotated[
        str | None,
        typer.Option(metavar="USER", help="Whose processes they are (--scope system).", show_default="none"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write the files there, not to stdout.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Units for systemd: a service for each process of the plan, and a target over them.

    Each starts when those before it are ready, and systemd restarts what ends.
    """
    from dynamoctl.cli.output import note
    from dynamoctl.export.systemd import Manager, together
    from dynamoctl.operations import export

    made = export.systemd(flags, config, Manager(scope, run_as))
    assert isinstance(made.content, dict)
    if output is not None:
        export.write_all(output, made.content)
    if json:
        _emit("systemd", "units", made.content, output, made.notes)
        return
    if output is None:
        print(together(made.content), end="")
    else:
        note(f"wrote {len(made.content)} files to {output}; the target says how to install them")
    for line in made.notes:
        note(line)


@app.command("prometheus")
@takes_name
def prometheus(
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            metavar="NAME",
            help="The deployment; without it: default, and all in a config.",
            show_default=False,
            autocompletion=completers.deployments,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every deployment.")] = False,
    form: Annotated[
        Literal["targets", "config"],
        typer.Option("--format", help="What is up now, for file_sd; or a prometheus.yml that follows it."),
    ] = "targets",
    output: Output = None,
    json: Json = False,
) -> None:
    """What Prometheus scrapes: each unit's metrics.

    Targets are those of now; after its next start a deployment may have others.
    The config follows it: it names files that dynamoctl writes while it is up.
    """
    from dynamoctl.cli.output import note
    from dynamoctl.operations import export
    from dynamoctl.state import deployments

    if everything:
        name = None
    if name is not None:
        export.require_known(name)
    if form == "config":
        _hand_out("prometheus", form, export.prometheus_config(name), output, json)
        return
    names = deployments() if everything else [name or "default"]
    groups = export.prometheus_targets(names)
    if not groups:
        note("nothing is up" if everything else f"'{names[0]}' is not up")
    _hand_out("prometheus", form, groups, output, json)


@app.command("grafana")
def grafana(output: Output = None, json: Json = False) -> None:
    """A Grafana dashboard over what Prometheus scrapes; one for all deployments."""
    from dynamoctl.export.grafana import dashboard

    _hand_out("grafana", "dashboard", dashboard(), output, json)


def _hand_out_plan(
    program: Program, form: Format, made: ExportResult, output: Path | None, as_json: bool
) -> None:
    from dynamoctl.cli.output import note

    _hand_out(program, form, made.content, output, as_json, made.notes)
    if not as_json:
        for line in made.notes:
            note(line)


def _hand_out(
    program: Program,
    form: Format,
    content: Any,
    output: Path | None,
    as_json: bool,
    notes: tuple[str, ...] = (),
) -> None:
    """To stdout or to a file; with --json, in the envelope."""
    import json

    from dynamoctl.cli.output import note
    from dynamoctl.operations import export

    if output is not None:
        export.write(output, content)
    if as_json:
        _emit(program, form, content, output, notes)
    elif output is not None:
        note(f"wrote {output}")
    else:
        print(content if isinstance(content, str) else json.dumps(content, indent=2) + "\n", end="")


def _emit(program: Program, form: Format, content: Any, output: Path | None, notes: tuple[str, ...]) -> None:
    from dynamoctl.answers.export import ExportAnswer
    from dynamoctl.cli.output import emit

    path = str(output) if output is not None else None
    emit(ExportAnswer(program, form, content, path, notes))
