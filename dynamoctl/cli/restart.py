"""`dynamoctl restart`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, NameBeforeUnit, NameOption, one_name


def command(
    deployment: NameBeforeUnit = None,
    units: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="UNIT...",
            help="The units, as status names them.",
            show_default=False,
            autocompletion=completers.units,
        ),
    ] = None,
    name: NameOption = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="All units of this role: agg, decode, prefill, cache, frontend.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All units of the deployment.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask where requests would fail.")] = False,
    json: Json = False,
) -> None:
    """Restart units of a deployment that is up, one after the other.

    A worker gets no new requests from then on, and --drain seconds for those that it has. If another worker
    has its role, no request fails; otherwise the command asks first.
    """
    import sys

    from dynamoctl.answers.restart import RestartAnswer, RestartedUnit
    from dynamoctl.cli.output import emit, note
    from dynamoctl.errors import SpecError
    from dynamoctl.humanize import duration
    from dynamoctl.operations.logs import target
    from dynamoctl.operations.restart import chosen, consequences, restart
    from dynamoctl.operations.serving import serving

    found, first = target(deployment, one_name(None, name))
    named = [*([first] if first is not None else []), *(units or [])]
    wanted = chosen(found, named, role, everything)
    noticed = consequences(serving(found), wanted)
    if noticed and not yes:
        if json or not sys.stdin.isatty():
            raise SpecError("; ".join(noticed), "to do it all the same: --yes")
        for line in noticed:
            note(line)
        if not typer.confirm("Go on?", err=True):
            raise SpecError("nothing was restarted")
    done = []
    for unit in wanted:
        if not json:
            note(f"{unit.name}: restarting")
        seconds = restart(found, unit.name)
        if not json:
            note(f"{unit.name}: ready again after {duration(seconds)}")
        done.append(RestartedUnit(unit.name, round(seconds, 1)))
    if json:
        emit(RestartAnswer(found, tuple(done)))
