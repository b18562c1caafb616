"""`dynamoctl undrain`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, NameBeforeUnit, NameOption


def command(
    deployment: NameBeforeUnit = None,
    unit: Annotated[
        str | None,
        typer.Argument(
            metavar="UNIT",
            help="The worker, as status names it.",
            show_default=False,
            autocompletion=completers.units,
        ),
    ] = None,
    name: NameOption = None,
    json: Json = False,
) -> None:
    """Send requests to a drained worker again."""
    from dynamoctl.answers.drain import UndrainAnswer
    from dynamoctl.cli.drain import read
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations.drain import undrain

    found, worker = read(deployment, unit, name)
    undrain(found, worker)
    if json:
        emit(UndrainAnswer(found, worker))
    else:
        note(f"{worker}: gets requests again")
