"""`dynamoctl down`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli.options import Json, Name, takes_name


@takes_name
def command(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="Every deployment.")] = False,
    json: Json = False,
) -> None:
    """Stop everything of a deployment and check that nothing is left."""
    from dynamoctl.answers.down import DownAllAnswer, DownAnswer
    from dynamoctl.cli.draw import DownDisplay
    from dynamoctl.cli.output import emit, note
    from dynamoctl.errors import LeftoverError
    from dynamoctl.humanize import duration
    from dynamoctl.operations.down import down
    from dynamoctl.operations.status import not_running
    from dynamoctl.state import deployments

    results, failures = [], []
    for each in deployments() if everything else [name]:
        try:
            with DownDisplay(quiet=json) as display:
                results.append(down(each, display.state))
        except LeftoverError as error:
            if not everything:
                raise
            failures.append(error)
    if failures:
        raise LeftoverError("; ".join(error.message for error in failures), failures[0].hint)
    if json:
        answers = tuple(
            DownAnswer(one.name, one.was_running, tuple(one.removed), round(one.seconds, 1))
            for one in results
        )
        emit(DownAllAnswer(answers) if everything else answers[0])
        return
    for one in results:
        if one.was_running:
            note(f"'{one.name}' is down after {duration(one.seconds)}; nothing is left of it")
        else:
            note(not_running(one.name))
    if not results:
        note("nothing is running")
