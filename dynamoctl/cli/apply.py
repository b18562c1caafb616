"""`dynamoctl apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamoctl.cli.options import Json
from dynamoctl.cli.plan_command import takes_plan
from dynamoctl.cli.plan_flags import Flags


@takes_plan
def command(
    flags: Flags,
    config: Path | None,
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            metavar="REVISION",
            help="Go back to an earlier plan, as history lists them, instead of to these arguments.",
            show_default=False,
        ),
    ] = None,
    workers_only: Annotated[
        bool,
        typer.Option("--workers-only", help="Leave the frontend and LMCache's server as they are."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask where requests would fail.")] = False,
    json: Json = False,
) -> None:
    """Change a deployment that is up to what `up` with these arguments would start.

    Units whose command line or environment differs are replaced one after the other; the others stay. A new
    worker serves before the old one goes, if memory and GPUs allow it. If a new unit does not become ready,
    what was changed is changed back.
    """
    from dynamoctl.answers.apply import ApplyAnswer
    from dynamoctl.cli import draw_change
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations import apply, changes

    if to is None:
        proposal = apply.to_flags(flags, config, workers_only)
    else:
        proposal = apply.to_revision(flags.get("name", "default"), to, workers_only)
    name, change = proposal.name, None
    if not dry_run and proposal.is_change:
        draw_change.require_consent(changes.consequences(proposal.state, proposal.in_place), yes, json)
        if not json:
            note(draw_change.render(proposal))
        change = changes.carry_out(proposal, (lambda _: None) if json else note)
    if json:
        steps = draw_change.steps(proposal, None if change is None else change.steps)
        emit(ApplyAnswer(name, None if change is None else change.revision, steps, proposal.warnings))
    elif dry_run:
        print(draw_change.render(proposal))
    elif change is None:
        note(f"'{name}' is up with this plan already")
    else:
        draw_change.finished(proposal, change)
