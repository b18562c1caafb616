"""`dynamoctl logs`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, NameBeforeUnit, NameOption, one_name


def command(
    deployment: NameBeforeUnit = None,
    unit: Annotated[
        str | None,
        typer.Argument(
            metavar="UNIT",
            help="One unit, as status names it.",
            show_default=False,
            autocompletion=completers.units,
        ),
    ] = None,
    name: NameOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the logs grow.")] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines",
            "-l",
            min=0,
            help="The last lines of each that are asked for; 0: all, of the start before too.",
            show_default="40; with --since, --grep or --level: all",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="No older lines: 30s, 10m, 2h, 1d, a time of the day or an ISO time.",
            show_default=False,
        ),
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option("--grep", "-g", metavar="REGEX", help="Lines in which it is found.", show_default=False),
    ] = None,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", "-i", help="Match --grep case-insensitively.")
    ] = False,
    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"] | None,
        typer.Option(help="Lines of this level and of worse ones.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Print the logs of one unit, or of all by their times.

    A line that has no time or level of its own, as in a traceback, has those of the line before it.
    """
    from dynamoctl.errors import SpecError
    from dynamoctl.operations.logs import query, read, target, units

    if unit is None:
        name, unit = target(deployment, one_name(None, name))
    else:
        chosen = one_name(deployment, name)
        assert chosen is not None
        name = chosen
    wanted = query(lines, since, grep, ignore_case, level)
    if json and follow:
        raise SpecError("--json prints one object, so it cannot follow", "leave out --follow or --json")
    if json:
        from dynamoctl.answers.logs import LogEntry, LogsAnswer
        from dynamoctl.cli.output import emit
        from dynamoctl.humanize import iso
        from dynamoctl.logs.fields import level_name

        entries = tuple(
            LogEntry(unit=one.unit, line=one.text, time=iso(one.at), level=level_name(one.level))
            for one in read(name, unit, wanted, follow=False)
        )
        emit(LogsAnswer(name, entries))
        return
    from dynamoctl.cli.draw import LogPrinter

    printer = LogPrinter(units(name), several=unit is None, at_once=follow)
    for line in read(name, unit, wanted, follow):
        printer.line(line)
