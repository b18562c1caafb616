"""`dynamoctl logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, Name


def command(
    unit: Annotated[
        str | None, typer.Argument(help="One unit, as status names it.", autocompletion=completers.units)
    ] = None,
    name: Name = "default",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the logs grow.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-l", min=0, help="The last lines of each; 0: all.")] = 40,
    json: Json = False,
) -> None:
    """Print the logs of one unit or of all."""
    from dynamoctl.cli.draw import LogPrinter
    from dynamoctl.errors import SpecError
    from dynamoctl.operations.logs import read

    if json and follow:
        raise SpecError("--json prints one object, so it cannot follow", "leave out --follow or --json")
    if json:
        from dynamoctl.cli.output import emit, schema

        entries = [{"unit": who, "line": line} for who, line in read(name, unit, lines, follow=False)]
        emit(schema("logs"), {"name": name, "lines": entries})
        return
    printer = LogPrinter(several=unit is None)
    for who, line in read(name, unit, lines, follow):
        printer.line(who, line)
