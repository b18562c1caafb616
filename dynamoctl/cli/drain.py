"""`dynamoctl drain`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, NameBeforeUnit, NameOption, one_name

Worker = Annotated[
    str | None,
    typer.Argument(
        metavar="UNIT",
        help="The worker, as status names it.",
        show_default=False,
        autocompletion=completers.units,
    ),
]


def command(
    deployment: NameBeforeUnit = None,
    unit: Worker = None,
    name: NameOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also if no other worker of its role takes requests.")
    ] = False,
    json: Json = False,
) -> None:
    """Keep new requests away from a worker, for maintenance.

    Requests that it has get --drain seconds, and the command waits for them. The worker lives on, and gets
    requests again with undrain.
    """
    from dynamoctl.answers.drain import DrainAnswer
    from dynamoctl.cli.output import emit, note
    from dynamoctl.humanize import duration
    from dynamoctl.operations.drain import drain

    found, worker = read(deployment, unit, name)
    seconds = drain(found, worker, force, (lambda _: None) if json else note)
    if json:
        emit(DrainAnswer(found, worker, round(seconds, 1)))
    else:
        note(
            f"{worker}: drained after {duration(seconds)}; to undo it: dynamoctl undrain {worker} -n {found}"
        )


def read(deployment: str | None, unit: str | None, name: str | None) -> tuple[str, str]:
    """The deployment and the unit: the deployment may be left out before it."""
    from dynamoctl.errors import SpecError

    if unit is None:
        deployment, unit = None, deployment
    if unit is None:
        raise SpecError("name a worker", "dynamoctl status lists them")
    return one_name(deployment, name) or "default", unit
