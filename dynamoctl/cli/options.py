"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer


def complete_name() -> list[str]:
    """The deployments, for the shell's completion."""
    from dynamoctl.state import deployments

    return deployments()


Name = Annotated[
    str,
    typer.Option("--name", "-n", metavar="NAME", help="The deployment.", autocompletion=complete_name),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
