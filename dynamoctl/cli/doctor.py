"""`dynamoctl doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from dynamoctl.cli.options import Json
from dynamoctl.cli.plan_flags import Flags, takes_plan
from dynamoctl.errors import PreflightError


@takes_plan
def command(flags: Flags, config: Path | None, json: Json = False) -> None:
    """Say whether `up` with the same arguments would work here, and what to do where not.

    Nothing is started but short programs that try a part. The exit code is 3 where `up` would refuse.
    """
    from dynamoctl.cli.draw import Looking, draw_findings
    from dynamoctl.cli.output import emit, schema
    from dynamoctl.operations.doctor import examine
    from dynamoctl.operations.planning import plan_for_here

    planned = plan_for_here(flags, config)
    with Looking(quiet=json) as display:
        found = examine(planned, display.check)
    wrong = [one.finding for one in found if one.finding.level == "error"]
    if json:
        body: dict[str, Any] = {
            "name": planned.plan.name,
            "mode": planned.plan.mode,
            "device": planned.plan.device,
            "model": planned.plan.model,
            "findings": [
                {
                    "check": one.check,
                    "level": one.finding.level,
                    "what": one.finding.what,
                    "why": one.finding.why,
                    "mend": one.finding.mend,
                }
                for one in found
            ],
        }
        if wrong:
            body["error"] = PreflightError(wrong[0].what, wrong[0].mend).as_json()
        emit(schema("doctor"), body, ok=not wrong)
    else:
        draw_findings(found)
    if wrong:
        raise typer.Exit(3)
