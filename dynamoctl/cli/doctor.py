"""`dynamoctl doctor`."""

from __future__ import annotations

from pathlib import Path

import typer

from dynamoctl.cli.options import Json
from dynamoctl.cli.plan_command import takes_plan
from dynamoctl.cli.plan_flags import Flags
from dynamoctl.errors import PreflightError


@takes_plan
def command(flags: Flags, config: Path | None, json: Json = False) -> None:
    """Check whether `up` would work here with the same arguments; show fixes if not.

    Starts only short programs that try a part. Exits with code 3 if `up` would refuse.
    """
    from dynamoctl.answers.doctor import DoctorAnswer, DoctorFinding
    from dynamoctl.answers.envelope import Error
    from dynamoctl.checks.base import Level
    from dynamoctl.cli.draw import CheckProgress, draw_findings
    from dynamoctl.cli.output import emit
    from dynamoctl.operations.doctor import diagnose
    from dynamoctl.operations.planning import plan_for_here

    planned = plan_for_here(flags, config)
    with CheckProgress(quiet=json) as display:
        results = diagnose(planned, display.check)
    errors = [result.finding for result in results if result.finding.level is Level.ERROR]
    if json:
        plan = planned.plan
        findings = tuple(
            DoctorFinding(
                result.check,
                result.finding.level.label,
                result.finding.what,
                result.finding.why,
                result.finding.fix,
            )
            for result in results
        )
        error = Error.of(PreflightError(errors[0].what, errors[0].fix)) if errors else None
        emit(DoctorAnswer(plan.name, plan.mode, plan.device, plan.model, findings), error)
    else:
        draw_findings(results)
    if errors:
        raise typer.Exit(3)
