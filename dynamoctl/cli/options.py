"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, cast

import typer

from dynamoctl.cli import completers

Name = Annotated[
    str,
    typer.Option(
        "--name", "-n", metavar="NAME", help="The deployment.", autocompletion=completers.deployments
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def takes(
    argument: str, kind: Callable[..., Any], without: Sequence[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a class, which several commands take, after its own.

    Args:
        argument: the command's own argument that gets them.
        kind: the class; its fields are the options.
        without: those that this command has not.
        defaults: where they are others than the class has.
    """
    fields = signature(kind, eval_str=True).parameters.values()
    options = [
        one.replace(default=defaults.get(one.name, one.default)) for one in fields if one.name not in without
    ]

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in signature(command, eval_str=True).parameters.values() if one.name != argument]

        @wraps(command)
        def run(**given: Any) -> None:
            values = {one.name: given.pop(one.name) for one in options}
            command(**{argument: kind(**values)}, **given)

        show(run, [*own, *options])
        return run

    return decorated


def show(command: Callable[..., None], parameters: Sequence[Parameter]) -> None:
    """Let Typer read these from a command, whatever it was written with."""
    cast("Any", command).__signature__ = Signature(parameters)
    command.__annotations__ = {one.name: one.annotation for one in parameters}
