"""The command line. Its import is on the way of every command, `--help` too: nothing slow here."""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated

import typer

from dynamoctl.cli import output
from dynamoctl.errors import DynamoctlError, SpecError

# Each has a module here; the last ones are groups of commands.
COMMANDS = (
    *("up", "init", "doctor", "status", "chat", "logs"),
    *("scale", "restart", "apply", "drain", "undrain", "history"),
    *("down", "cache", "bench", "export"),
)
_LISTS = (["--help"], ["-h"])
# How large a terminal says that it is; some say 0.
_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
_SIZE = re.compile(r"[1-9][0-9]{0,4}")
# Typer makes this exit code of a KeyboardInterrupt; no command ends with it by itself.
_INTERRUPTED = 128 + signal.SIGINT


def _version(asked: bool) -> None:
    if asked:
        from dynamoctl.operations.versions import stack

        print("\n".join(stack()))
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the versions of it and of what it runs.",
        ),
    ] = False,
) -> None:
    pass


def app(*names: str, listed: bool = False) -> typer.Typer:
    """The command line with the named commands, or with all of them if none is named.

    Typer reads the options of each, whichever is asked for: a sixth of what `status` takes in all.

    Args:
        listed: the commands are there by name and help alone, for a list of them.
    """
    made = typer.Typer(
        name="dynamoctl",
        help="Bring up LLM-serving deployments on this machine: NVIDIA Dynamo, vLLM, LMCache and NIXL.",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    made.callback()(_root)
    for name in names or COMMANDS:
        module = import_module(f"dynamoctl.cli.{name}")
        group = hasattr(module, "app")
        if listed:
            made.command(name, help=module.app.info.help if group else module.command.__doc__)(_nothing)
        elif group:
            made.add_typer(module.app, name=name)
        else:
            made.command(name)(module.command)
    return made


def _nothing() -> None:
    pass


def _called(words: list[str]) -> tuple[str, str]:
    """The command that these words call, and its name in the schema of an error."""
    names = [word for word in words if not word.startswith("-")]
    if not names:
        return "dynamoctl", "dynamoctl"
    if names[0] == "cache" and names[1:2] in (["check"], ["clear"]):
        return "cache", f"cache-{names[1]}"
    return names[0], names[0]


def run(argv: list[str]) -> int:
    """Run one command line; every failure becomes a message and its exit code."""
    _fit_terminal()
    received: list[int] = []
    on_terminal = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        if number == signal.SIGHUP:
            # The terminal has gone: what is written to it from now on, on the way out too, would fail.
            _write_nowhere(*on_terminal)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    before_dashes = argv[: argv.index("--")] if "--" in argv else argv
    as_json = "--json" in before_dashes
    command, answers = _called(before_dashes)
    try:
        argv = _or_help(argv)
        listed = argv in _LISTS and "_DYNAMOCTL_COMPLETE" not in os.environ
        asked = app(*(name for name in COMMANDS if argv[:1] == [name]), listed=listed)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `main` has held it back
        result = asked(args=argv, prog_name="dynamoctl", standalone_mode=False)
    except DynamoctlError as error:
        return output.fail(answers, error, as_json)
    except typer.TyperException as error:
        see = f"dynamoctl {command}" if command in COMMANDS else "dynamoctl"
        hint = f"see: {see} --help"
        if command in ("agg", "disagg"):
            hint = f"did you mean: dynamoctl up {command}"
        elif "--" in argv and "'mode'" in error.format_message():
            # Without a mode before it, the first word behind the -- would be one.
            hint = f"name the mode before the --, as in: dynamoctl {command} agg -- ARGUMENTS"
        usage = SpecError(error.format_message().rstrip("."), hint)
        return output.fail(answers, usage, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _broken_off(answers, received, as_json)
    except (BrokenPipeError, SystemExit):
        # Typer and rich make a SystemExit of a broken pipe, and of nothing else but shell completion.
        if "_DYNAMOCTL_COMPLETE" in os.environ:
            raise
        # Whoever read our output has gone (as in `dynamoctl logs | head`): nothing to say to them.
        _write_nowhere(1)
        return 128 + received[-1] if received else 0
    if result == _INTERRUPTED:
        return _broken_off(answers, received, as_json)
    if received and received[-1] != signal.SIGINT and result in (None, 0):
        # A command that Ctrl-C ends without a failure (`status --watch`) takes another signal for one.
        return 128 + received[-1]
    return result if isinstance(result, int) else 0


def _fit_terminal() -> None:
    """See that all can be printed, wherever it goes."""
    if isinstance(sys.stdout, TextIOWrapper):
        # The name of a file need not be UTF-8: it is printed as it is.
        sys.stdout.reconfigure(errors="surrogateescape")
    for name in _SIZES:
        # Rich prints nothing on a terminal of no width, and cannot read every digit.
        if not _SIZE.fullmatch(os.environ.get(name, "80")):
            del os.environ[name]


def _broken_off(answers: str, received: list[int], as_json: bool) -> int:
    """Say so; give back the exit code."""
    code = 128 + received[-1] if received else _INTERRUPTED
    try:
        return output.interrupted(answers, code, as_json)
    except (BrokenPipeError, SystemExit, KeyboardInterrupt):
        # Ctrl-C has ended what read our output too (as in `dynamoctl up 2>&1 | tee log`), or came again.
        _write_nowhere(1, 2)
        return code


def _write_nowhere(*descriptors: int) -> None:
    """What is written to these from now on, at the end of this process too, is lost and does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _or_help(argv: list[str]) -> list[str]:
    """Nothing but `up` means the file in this folder; without one there is nothing to go by."""
    if argv == ["up"]:
        from pathlib import Path

        from dynamoctl.config.choices import CONFIG_NAME

        return argv if Path(CONFIG_NAME).exists() else ["up", "--help"]
    return argv or ["--help"]
