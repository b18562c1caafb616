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
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="End each unit before it starts again; takes less memory."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask where requests would fail.")] = False,
    json: Json = False,
) -> None:
    """Restart units of a deployment that is up, one after the other.

    A new worker serves before the old one goes, if memory and GPUs allow it. The old one gets no new requests
    from then on, and --drain seconds for those that it has. The command asks first if requests would fail.
    """
    from dynamoctl.answers.restart import RestartAnswer, RestartedUnit
    from dynamoctl.cli import draw_change
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations import changes, restart
    from dynamoctl.operations.logs import target

    found, first = target(deployment, one_name(None, name))
    named = [*([first] if first is not None else []), *(units or [])]
    proposal = restart.plan(found, restart.chosen(found, named, role, everything), in_place)
    draw_change.require_consent(changes.consequences(proposal.state, proposal.in_place), yes, json)
    change = changes.carry_out(proposal, (lambda _: None) if json else note)
    if json:
        done = (
            RestartedUnit(step["unit"], step["seconds"], step["action"] == "renew") for step in change.steps
        )
        emit(RestartAnswer(found, tuple(done)))
