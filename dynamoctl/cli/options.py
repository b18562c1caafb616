"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli import completers

Name = Annotated[
    str,
    typer.Option(
        "--name", "-n", metavar="NAME", help="The deployment.", autocompletion=completers.deployments
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
