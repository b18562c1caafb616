"""`dynamoctl scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli.options import Json, NameBeforeUnit, NameOption, one_name
from dynamoctl.errors import SpecError


def command(
    deployment: NameBeforeUnit = None,
    role: Annotated[
        str | None,
        typer.Argument(metavar="ROLE", help="worker (of `up agg`), decode or prefill.", show_default=False),
    ] = None,
    count: Annotated[
        str | None, typer.Argument(metavar="N", help="How many workers there are to be.", show_default=False)
    ] = None,
    name: NameOption = None,
    gpus: Annotated[
        str,
        typer.Option(
            help=r"Comma-separated GPUs for the new workers. [dim]\[default: free ones][/dim]",
            show_default=False,
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also if no worker of the role is left, so that requests fail.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Change the number of workers of a deployment that is up.

    New workers count when they have answered a request. Those that go get no new requests, and --drain
    seconds for the ones that they have. The other units are not touched.
    """
    from dynamoctl.answers.scale import ScaleAnswer
    from dynamoctl.cli import draw_change
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations import changes

    found, word, wanted = _read(deployment, role, count, name)
    named = tuple(filter(None, (gpu.strip() for gpu in gpus.split(","))))
    proposal = changes.scale(found, word, wanted, named, force)
    change = None
    if not dry_run and proposal.steps:
        if not json:
            note(draw_change.render(proposal))
        change = changes.carry_out(proposal, (lambda _: None) if json else note)
    if json:
        steps = draw_change.steps(proposal, None if change is None else change.steps)
        revision = None if change is None else change.revision
        emit(ScaleAnswer(found, revision, steps, proposal.warnings))
    elif dry_run:
        print(draw_change.render(proposal))
    elif change is None:
        note(f"'{found}' has {wanted} of them already")
    else:
        draw_change.finished(proposal, change)


def _read(
    deployment: str | None, role: str | None, count: str | None, name: str | None
) -> tuple[str, str, int]:
    """The deployment, the role and the number: the deployment may be left out before them."""
    if count is None:
        deployment, role, count = None, deployment, role
    if role is None or count is None:
        raise SpecError("name a role and a number of workers", "as in: dynamoctl scale decode 2")
    if not (count.isascii() and count.isdigit()):
        raise SpecError(f"'{count}' is not a number of workers", "as in: dynamoctl scale decode 2")
    return one_name(deployment, name) or "default", role, int(count)
