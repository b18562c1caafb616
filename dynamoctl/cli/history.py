"""`dynamoctl history`."""

from __future__ import annotations

from dynamoctl.cli.options import Json, Name, takes_name


@takes_name
def command(name: Name = "default", json: Json = False) -> None:
    """List the plans that a deployment has had: each start and each change, and what became of it."""
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations.history import history

    answer = history(name)
    if json:
        emit(answer)
        return
    if not answer.revisions:
        note(f"'{name}' was never started")
    for one in answer.revisions:
        mark = "*" if one.is_current else " "
        print(f"{mark} {one.revision:>3}  {one.at}  {one.what}  {one.outcome}")
