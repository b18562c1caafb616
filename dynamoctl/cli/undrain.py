"""`dynamoctl undrain`."""

from __future__ import annotations

from dynamoctl.cli.drain import Worker, read
from dynamoctl.cli.options import Json, NameBeforeUnit, NameOption


def command(
    deployment: NameBeforeUnit = None,
    unit: Worker = None,
    name: NameOption = None,
    json: Json = False,
) -> None:
    """Send requests to a drained worker again."""
    from dynamoctl.answers.drain import UndrainAnswer
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations.drain import undrain

    found, worker = read(deployment, unit, name)
    undrain(found, worker)
    if json:
        emit(UndrainAnswer(found, worker))
    else:
        note(f"{worker}: gets requests again")
