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
    """Check whether `up` would work here with the same arguments; show fixes if not.

    Starts only short programs that try a part. Exits with code 3 if `up` would refuse.
    """
    from dynamoctl.checks.base import Level
    from dynamoctl.cli.draw import CheckProgress, draw_findings
    from dynamoctl.cli.output import emit, schema
    from dynamoctl.operations.doctor import diagnose
    from dynamoctl.operations.planning import plan_for_here

    planned = plan_for_here(flags, config)
    with CheckProgress(quiet=json) as display:
        results = diagnose(planned, display.check)
    errors = [result.finding for result in results if result.finding.level is Level.ERROR]
    if json:
        body: dict[str, Any] = {
            "name": planned.plan.name,
            "mode": planned.plan.mode,
            "device": planned.plan.device,
            "model": planned.plan.model,
            "findings": [
                {
                    "check": result.check,
                    "level": result.finding.level.label,
                    "what": result.finding.what,
                    "why": result.finding.why,
                    "fix": result.finding.fix,
                }
                for result in results
            ],
        }
        if errors:
            body["error"] = PreflightError(errors[0].what, errors[0].fix).as_json()
        emit(schema("doctor"), body, ok=not errors)
    else:
        draw_findings(results)
    if errors:
        raise typer.Exit(3)
