"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, cast

import typer

from dynamoctl.cli import completers
from dynamoctl.config.choices import NAME, NAME_RULE
from dynamoctl.errors import SpecError

_OPTION = ("--name", "-n")
Name = Annotated[
    str, typer.Option(*_OPTION, metavar="NAME", help="The deployment.", autocompletion=completers.deployments)
]
NameArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="The deployment; the same as --name.",
        show_default=False,
        autocompletion=completers.deployments,
    ),
]
# In a command that takes units after it.
NameBeforeUnit = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="The deployment; the same as --name. May be left out before UNIT.",
        show_default=False,
        autocompletion=completers.deployments_and_units,
    ),
]
# In a command that takes both: None if it is not given.
NameOption = Annotated[
    str | None,
    typer.Option(
        *_OPTION,
        metavar="NAME",
        help=r"The deployment. [dim]\[default: default][/dim]",
        show_default=False,
        autocompletion=completers.deployments,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def takes_name(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take the deployment's name as an argument, too: `status two` is `status -n two`.

    Args:
        command: gets the name as `name`.
    """
    own = signature(command, eval_str=True).parameters.values()
    default = next(one.default for one in own if one.name == "name")

    @wraps(command)
    def run(deployment: str | None, name: str | None, **given: Any) -> None:
        if given.get("everything") and deployment is not None:
            raise SpecError(f"--all is every deployment, and '{deployment}' is one", "leave out one of them")
        chosen = one_name(deployment, name)
        command(name=default if chosen is None else chosen, **given)

    argument = Parameter("deployment", Parameter.KEYWORD_ONLY, default=None, annotation=NameArgument)
    options = list(own)
    if default is not None:  # without one, the option is of a kind that says whether it is given
        by_name = next(at for at, one in enumerate(options) if one.name == "name")
        options[by_name] = options[by_name].replace(default=None, annotation=NameOption)
    show(run, [argument, *options])
    return run


def one_name(argument: str | None, option: str | None) -> str | None:
    """The deployment that is named as an argument, with --name, or both ways; None if neither is given.

    Raises:
        SpecError: they differ, or no deployment can have this name.
    """
    for name in (argument, option):
        if name is not None and not NAME.fullmatch(name):
            raise SpecError(f"'{name}' is not the name of a deployment", NAME_RULE)
    if argument is not None and option is not None and argument != option:
        raise SpecError(
            f"two deployments are named: '{argument}', and '{option}' by --name", "leave out one of them"
        )
    return option if argument is None else argument


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
    # Typer hands all over by name, so that one without a default may follow one with a default.
    by_name = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in parameters]
    cast("Any", command).__signature__ = Signature(by_name)
    command.__annotations__ = {one.name: one.annotation for one in parameters}
