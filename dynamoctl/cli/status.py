"""`dynamoctl status`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from dynamoctl.cli.options import Json, Name, takes_name


@takes_name
def command(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="Every deployment.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, with rates and latencies; end it with Ctrl-C.")
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How often --watch looks.", show_default="2"),
    ] = None,
    json: Json = False,
) -> None:
    """Show units, health, load, GPUs, cache hits and KV transfers.

    --watch goes on while a deployment is away, and shows it again when it is back. Where no terminal is, it
    prints a block of text at each look; with --json, an object on a line.
    """
    from dynamoctl.state import deployments

    def names() -> list[str]:
        return deployments() if everything else [name]

    if watch:
        _watch(names, 2.0 if interval is None else interval, everything, json)
        return
    if interval is not None:
        from dynamoctl.errors import SpecError

        raise SpecError("--interval says how often --watch looks, and there is no --watch", "add --watch")
    from dynamoctl.operations.status import status

    answers = tuple(status(each) for each in names())
    if json:
        from dynamoctl.answers.status import StatusAllAnswer
        from dynamoctl.cli.output import emit

        emit(StatusAllAnswer(answers) if everything else answers[0])
        return
    from dynamoctl.cli.draw import draw_status

    for answer in answers:
        draw_status(answer)
    if not answers:
        print("nothing is running")


def _watch(names: Callable[[], list[str]], interval_s: float, everything: bool, json: bool) -> None:
    """Until Ctrl-C, which is how it ends and no failure."""
    from dynamoctl.errors import SpecError
    from dynamoctl.operations.watch import LEAST_INTERVAL_S, watch

    if not interval_s >= LEAST_INTERVAL_S:  # nan, too
        raise SpecError(f"--interval: {interval_s:g} s is too short", f"at least {LEAST_INTERVAL_S:g}")
    try:
        if json:
            from dynamoctl.answers.watch import WatchAllAnswer
            from dynamoctl.cli.output import emit_line

            for seen in watch(names, interval_s):
                answers = tuple(one.answer for one in seen)
                emit_line(WatchAllAnswer(answers) if everything else answers[0])
        from dynamoctl.cli.draw_watch import WatchDisplay

        with WatchDisplay(interval_s, everything) as display:
            for seen in watch(names, interval_s):
                display.show(seen)
    except KeyboardInterrupt:
        return
