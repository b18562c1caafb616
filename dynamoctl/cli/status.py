"""`dynamoctl status`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli.options import Json, Name


def command(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="Every deployment.")] = False,
    json: Json = False,
) -> None:
    """Show units, health, GPUs, cache hits and KV transfers."""
    from dynamoctl.cli.output import emit, schema
    from dynamoctl.operations.status import status
    from dynamoctl.state import deployments

    bodies = [status(each) for each in (deployments() if everything else [name])]
    if json:
        emit(schema("status"), {"deployments": bodies} if everything else bodies[0])
        return
    from dynamoctl.cli.draw import draw_status

    for body in bodies:
        draw_status(body)
    if not bodies:
        print("nothing is running")
