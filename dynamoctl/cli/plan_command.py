"""Give a command the flags that make a plan, before its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any

from typer.models import OptionInfo

from dynamoctl.cli.options import show
from dynamoctl.cli.plan_flags import plan_flags


def takes_plan(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags, and `--config`, before its own.

    Args:
        command: gets what was given as its first argument, the config file's path as its second, and its own
            options by name.
    """
    return _with_flags(command, without=())


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags before its own, but not `--config`.

    Args:
        command: gets what was given as its first argument, and its own options by name.
    """
    return _with_flags(command, without=("config",))


def _with_flags(command: Callable[..., None], without: tuple[str, ...]) -> Callable[..., None]:
    shared = {
        name: one
        for name, one in signature(plan_flags, eval_str=True).parameters.items()
        if name not in without
    }
    taken = 1 if without else 2
    own = list(signature(command, eval_str=True).parameters.values())[taken:]

    @wraps(command)
    def run(**given: Any) -> None:
        flags = plan_flags(**{name: given.pop(name) for name in shared})
        config = flags.pop("config")
        command(flags, *(() if without else (config,)), **given)

    parameters = [*shared.values(), *own]
    for one in parameters:
        _show_default(one)
    show(run, parameters)
    return run


def _show_default(parameter: Parameter) -> None:
    """Move a default in words into the help: typer itself shows it in brackets, as in `(8000)`."""
    for info in parameter.annotation.__metadata__:
        if isinstance(info, OptionInfo) and isinstance(info.show_default, str):
            info.help = rf"{info.help} [dim]\[default: {info.show_default}][/dim]"
            info.show_default = False
