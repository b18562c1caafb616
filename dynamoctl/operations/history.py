"""The plans that a deployment has had."""

from __future__ import annotations

from contextlib import suppress

from dynamoctl.answers.history import HistoryAnswer, HistoryRevision
from dynamoctl.errors import DynamoctlError
from dynamoctl.humanize import iso
from dynamoctl.state import DeploymentDir
from dynamoctl.supervisor import revisions


def history(name: str) -> HistoryAnswer:
    """The last plans of a deployment, the oldest first; none if it was never started."""
    folder = DeploymentDir(name)
    current = under_way = 0
    with suppress(DynamoctlError):
        if (state := folder.read_state()) is not None:
            current = state.revision
            if state.change is not None and state.supervisor_lives:
                under_way = state.change.revision
    found = []
    for one in revisions.every(folder):
        outcome = one.outcome
        if outcome == revisions.UNDER_WAY and one.number != under_way:
            outcome = revisions.INTERRUPTED
        found.append(HistoryRevision(one.number, one.what, iso(one.at), outcome, one.number == current))
    return HistoryAnswer(name, tuple(found))
