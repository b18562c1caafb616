"""`dynamoctl export prometheus` and `dynamoctl export grafana`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json

app = typer.Typer(help="Hand what runs to other programs.", no_args_is_help=True)

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="Write it there, not to stdout.", show_default=False),
]


@app.command("prometheus")
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


def _hand_out(program: str, form: str, content: Any, output: Path | None, as_json: bool) -> None:
    """To stdout or to a file; with --json, in the envelope."""
    import json

    from dynamoctl.cli.output import emit, note, schema
    from dynamoctl.operations import export

    if output is not None:
        export.write(output, content)
    if as_json:
        path = str(output) if output is not None else None
        emit(schema("export"), {"program": program, "format": form, "content": content, "path": path})
    elif output is not None:
        note(f"wrote {output}")
    else:
        print(content if isinstance(content, str) else json.dumps(content, indent=2) + "\n", end="")
