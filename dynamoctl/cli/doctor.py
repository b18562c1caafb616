"""`dynamoctl doctor`."""

from __future__ import annotations

from pathlib import Path

import typer

from dynamoctl.cli.options import Json
from dynamoctl.cli.plan_flags import Flags, takes_plan
from dynamoctl.errors import PreflightError


@takes_plan
def command(flags: Flags, config: Path | None, json: Json = False) -> None:
    """Say whether `up` with the same arguments would work here, and what to do where not.

    Nothing is started but short programs that try a part. The exit code is 3 where `up` would refuse.
    """
    from dynamoctl.answers.doctor import DoctorAnswer, DoctorFinding
    from dynamoctl.answers.envelope import Error
    from dynamoctl.cli.draw import Looking, draw_findings
    from dynamoctl.cli.output import emit
    from dynamoctl.operations.doctor import examine
    from dynamoctl.operations.planning import plan_for_here

    planned = plan_for_here(flags, config)
    with Looking(quiet=json) as display:
        found = examine(planned, display.check)
    wrong = [one.finding for one in found if one.finding.level == "error"]
    if json:
        plan = planned.plan
        findings = tuple(
            DoctorFinding(one.check, one.finding.level, one.finding.what, one.finding.why, one.finding.mend)
            for one in found
        )
        error = Error.of(PreflightError(wrong[0].what, wrong[0].mend)) if wrong else None
        emit(DoctorAnswer(plan.name, plan.mode, plan.device, plan.model, findings), error)
    else:
        draw_findings(found)
    if wrong:
        raise typer.Exit(3)
