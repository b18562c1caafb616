"""Show a change before it is carried out, while it is, and afterwards."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from dynamoctl.answers.scale import ChangeStep
from dynamoctl.cli.output import note
from dynamoctl.errors import SpecError
from dynamoctl.planner.secrets import redact

if TYPE_CHECKING:
    from dynamoctl.operations.changes import Change, Proposal
    from dynamoctl.planner.difference import Step
    from dynamoctl.planner.plan import Unit

_SIGNS = {"add": "+", "replace": "~", "renew": "!", "remove": "-"}
_HOW = {
    "add": "",
    "replace": "a new one serves before it goes",
    "renew": "it ends, then starts again",
    "remove": "",
}


def render(proposal: Proposal) -> str:
    """What a change would do, one unit after the other, with what differs in its arguments and variables."""
    lines = []
    for step in proposal.steps:
        lines.append(f"{_SIGNS[step.action]} {step.name}{_place(step)}")
        if _HOW[step.action]:
            lines[-1] += f"  ({_HOW[step.action]})"
        lines += [f"    {line}" for line in _differences(step.old, step.new)]
    return "\n".join(lines) or "nothing would change"


def _place(step: Step) -> str:
    unit = step.new or step.old
    assert unit is not None
    gpus = f"  GPU {','.join(map(str, unit.gpus))}" if unit.gpus else ""
    ports = ", ".join(f"{name} {port}" for name, port in unit.ports.items())
    return gpus + (f"  ports {ports}" if step.action == "add" and ports else "")


def _differences(old: Unit | None, new: Unit | None) -> list[str]:
    if old is None or new is None:
        return []
    lines = []
    for name in sorted(old.env.keys() | new.env.keys()):
        was, will = old.env.get(name), new.env.get(name)
        if was != will and not name.endswith("PORT"):
            lines.append(f"{name}: {_value(was, name)} -> {_value(will, name)}")
    if old.argv != new.argv:
        gone = [word for word in old.argv if word not in new.argv]
        come = [word for word in new.argv if word not in old.argv]
        lines.append(f"arguments: {redact(' '.join(gone)) or '-'} -> {redact(' '.join(come)) or '-'}")
    return lines


def _value(value: str | None, name: str) -> str:
    return "unset" if value is None else f"{redact(value, name)!r}"


def require_consent(noticed: Sequence[str], is_given: bool, as_json: bool) -> None:
    """Ask whether to go on where clients would notice.

    Args:
        noticed: what they would notice.
        is_given: whether the user has said yes beforehand.

    Raises:
        SpecError: nobody can be asked, or the answer is no.
    """
    if not noticed or is_given:
        return
    if as_json or not sys.stdin.isatty():
        raise SpecError("; ".join(noticed), "to do it all the same: --yes")
    for line in noticed:
        note(line)
    if not typer.confirm("Go on?", err=True):
        raise SpecError("nothing was changed")


def steps(proposal: Proposal, taken: Sequence[Mapping[str, Any]] | None) -> tuple[ChangeStep, ...]:
    """The steps of an answer.

    Args:
        taken: as the supervisor took them; None if it was not asked to.
    """
    gpus = {step.name: (step.new or step.old).gpus for step in proposal.steps}  # type: ignore[union-attr]
    if taken is None:
        return tuple(ChangeStep(one.action, one.name, gpus[one.name], None) for one in proposal.steps)
    return tuple(
        ChangeStep(one["action"], one["unit"], gpus.get(one["unit"], ()), one["seconds"]) for one in taken
    )


def finished(proposal: Proposal, change: Change) -> None:
    """Say that it is done."""
    for warning in proposal.warnings:
        note(f"warning: {warning}")
    note(f"'{proposal.name}' runs revision {change.revision}: {proposal.what}")
