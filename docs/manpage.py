"""The man page dynamoctl(1) from the Typer app; docs/generate.py writes it to docs/dynamoctl.1."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dynamoctl
import typer.main
from dynamoctl import cli
from rich.text import Text

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
# Options of `up` that other commands take too are listed once, unless they are only a few.
MANY = 10
SYNOPSIS = r"""
\fBdynamoctl\fP \fICOMMAND\fP [\fIOPTIONS\fP] [\fIARGUMENTS\fP]
.br
\fBdynamoctl\fP \fICOMMAND\fP \fB\-\-help\fP
.br
\fBdynamoctl\fP \fB\-\-version\fP
"""
DESCRIPTION = (
    "dynamoctl brings up an LLM-serving deployment on one Linux machine with one command: NVIDIA Dynamo's"
    " frontend, vLLM workers, and LMCache as the KV cache. `up` returns when the deployment has answered a"
    " completion. The deployment keeps running after the terminal closes.",
    "Data goes to stdout, everything else to stderr. With `--json`, a command prints one object.",
    "Arguments of `up` after `--` are passed to vLLM.",
)
FILES = (
    ("dynamoctl.toml", "The configuration that `up` reads if it is in the current folder."),
    (
        "~/.local/state/dynamoctl/deployments/NAME/",
        "The folder of a deployment: its plan (`plan.json`), its state (`state.json`) and its logs"
        " (`logs/UNIT.log`, and `logs/UNIT.log.1` for the start before). `DYNAMOCTL_HOME` names another place"
        " for `~/.local/state/dynamoctl`.",
    ),
    (
        "~/.local/state/dynamoctl/prometheus/NAME.json",
        "The targets that Prometheus scrapes; it exists while the deployment is up.",
    ),
    (
        "~/.cache/dynamoctl/",
        "The converted built-in model. `DYNAMOCTL_CACHE` names another place.",
    ),
)
EXAMPLES = (
    ("Bring up one worker with LMCache, ask it something, and take it down:", "up agg", "chat", "down"),
    ("Bring up a decode and a prefill worker, each on a GPU of its own:", "up disagg --gpus 0,1"),
    ("Print the plan and start nothing:", "up agg --dry-run"),
)


def page(exit_codes: Iterable[list[str]], environment: Iterable[list[str]]) -> str:
    """The whole page.

    Args:
        exit_codes: rows of a code and what it means, in Markdown.
        environment: rows of variables and what they are read for, in Markdown.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    root: Any = typer.main.get_command(cli.app())
    summary = project["description"].rstrip(".")
    lines = [
        '.\\" Written by docs/generate.py from the program: change the program, not this file.',
        f'.TH DYNAMOCTL 1 "" "dynamoctl {dynamoctl.__version__}" "User Commands"',
        ".SH NAME",
        f"dynamoctl \\- {roff(summary[0].lower() + summary[1:])}",
        ".SH SYNOPSIS",
        SYNOPSIS.strip(),
        ".SH DESCRIPTION",
        *_paragraphs(DESCRIPTION),
        ".SH OPTIONS",
        *(line for parameter in root.params for line in _parameter(parameter)),
        *_tagged(bold("--help") + ", " + bold("-h"), "Show the help of a command and exit."),
        ".SH COMMANDS",
    ]
    common = {_signature(parameter) for parameter in root.commands["up"].params}
    for words, command in _leaves(root):
        lines += _command(words, command, common if words != ["up"] else set())
    lines += [".SH EXIT STATUS"]
    for code, meaning in exit_codes:
        lines += _tagged(bold(code), meaning)
    lines += [".SH ENVIRONMENT"]
    for variables, meaning in environment:
        here = meaning.partition(": see [")[0]  # the page that it leads to is not here
        lines += _tagged(roff(variables), here[0].upper() + here[1:] + ".")
    lines += [
        ".PP",
        "A flag wins over the environment, which wins over the file, which wins over the default.",
    ]
    lines += [".SH FILES"]
    for path, meaning in FILES:
        lines += _tagged(italic(path), meaning)
    lines += [".SH EXAMPLES"]
    for title, *commands in EXAMPLES:
        lines += [".PP", roff(title), ".PP", ".RS 4", ".nf"]
        lines += [f"$ dynamoctl {roff(command)}" for command in commands]
        lines += [".fi", ".RE"]
    lines += [".SH SEE ALSO"]
    lines += [".PP", f"Documentation and source: {roff(project['urls']['Documentation'])}"]
    return "\n".join(lines) + "\n"


def _leaves(group: Any, *before: str) -> Iterator[tuple[list[str], Any]]:
    """The commands that do something, each with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, *before, name)
        else:
            yield [*before, name], command


def _command(words: list[str], command: Any, common: set[tuple[Any, ...]]) -> list[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name != "argument"]
    as_up = [one for one in options if _signature(one) in common]
    if len(as_up) < MANY:
        as_up = []
    title = " ".join([bold(" ".join(["dynamoctl", *words])), "[" + italic("OPTIONS") + "]"])
    title += "".join(f" {_value(one)}" for one in arguments)
    lines = [f".SS {title}", *_paragraphs(re.split(r"\n\s*\n", Text.from_markup(command.help.strip()).plain))]
    own = [*arguments, *(option for option in options if option not in as_up)]
    for panel in dict.fromkeys([None, *(one.rich_help_panel for one in own)]):
        if panel:
            lines += [".PP", f"{roff(panel)}:"]
        lines += [line for one in own if one.rich_help_panel == panel for line in _parameter(one)]
    if as_up:
        names = ", ".join(bold(flag) for one in as_up for flag in (*one.opts, *one.secondary_opts))
        lines += [".PP", f"As for {bold('dynamoctl up')}: {names}."]
    return lines


def _signature(parameter: Any) -> tuple[Any, ...]:
    return parameter.name, tuple(parameter.opts), parameter.help, parameter.show_default


def _parameter(parameter: Any) -> list[str]:
    text = Text.from_markup(parameter.help or "").plain
    default = parameter.default if parameter.show_default is True else parameter.show_default
    if default is not None and not isinstance(default, bool):
        text += f" [default: {default}]"
    if parameter.param_type_name == "argument":
        return _tagged(_value(parameter), text)
    names = ", ".join(bold(flag) for flag in (*parameter.opts, *parameter.secondary_opts))
    return _tagged(names if parameter.is_flag else f"{names} {_value(parameter)}", text)


def _value(parameter: Any) -> str:
    """What a parameter takes, as printed after its name."""
    choices = getattr(parameter.type, "choices", None)
    if parameter.metavar:
        text = parameter.metavar.strip("[]")
    elif choices:
        text = "|".join(choices)
    elif parameter.param_type_name == "argument":
        text = parameter.name.upper()
    else:
        kind = type(parameter.type).__name__.lower()
        text = next((word for part, word in KINDS.items() if part in kind), "TEXT")
    if parameter.param_type_name == "argument" and not parameter.required:
        return f"[{italic(text)}]"
    return italic(text)


KINDS = {"int": "N", "float": "NUMBER", "path": "PATH"}


def _tagged(tag: str, text: str) -> list[str]:
    return [".TP", tag, roff(text)]


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in (".PP", roff(text))]


def bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fP"


def italic(text: str) -> str:
    return f"\\fI{_escaped(text)}\\fP"


def roff(text: str) -> str:
    """Words with a little Markdown as one line of roff: code is bold, and of a link only its text is left."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
    parts = re.split(r"`([^`]+)`", text)
    line = "".join(bold(part) if i % 2 else _escaped(part) for i, part in enumerate(parts))
    # A line that begins with one of these is a request.
    return "\\&" + line if line.startswith((".", "'")) else line


def _escaped(text: str) -> str:
    for plain, name in (
        ("\\", "\\[rs]"),
        ("-", "\\-"),
        ("'", "\\[aq]"),
        ("`", "\\[ga]"),
        ("~", "\\[ti]"),
        ("^", "\\[ha]"),
    ):
        text = text.replace(plain, name)
    return "".join(char if ord(char) < 128 else f"\\[u{ord(char):04X}]" for char in text)
