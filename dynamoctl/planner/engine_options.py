"""A user's arguments as the engine's own parsers take them.

dynamo.vllm passes its command line through three parsers, each of which takes what it knows: its own, the one
for routers, and vLLM's. An option has many spellings there: another name, `=`, the beginning of its name, `_`
for `-`, keys of a JSON value behind dots. So the same parsers are built here, with argparse, from tables of
the installed packages' options. They have no types and no choices: the engine itself judges a value.

Source: ai-dynamo==1.6.1:dynamo/vllm/args.py:_parse_cli_args;
vllm==0.31.0:vllm/utils/argparse_utils.py:FlexibleArgumentParser.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, Literal, NoReturn

from dynamoctl.errors import SpecError
from dynamoctl.planner import option_tables
from dynamoctl.planner.option_tables import Table

Engine = Literal["vllm", "mocker"]

# A file of more arguments, which vLLM puts in the place of this option before it parses.
CONFIG = "--config"
_NARGS: Mapping[str, str | int | None] = {
    "value": None,
    "flag": 0,
    "flag or its negation": 0,
    "optional value": "?",
    "any values": "*",
    "values": "+",
}


@dataclass(frozen=True)
class Given:
    """One option that is given.

    Attributes:
        option: its first name, as `--quantization` for `-q`.
        word: the name that was meant, as `-q` or `--no-enable-lora`.
        values: what follows it; several keys of one JSON value come as one.
    """

    option: str
    word: str
    values: tuple[str, ...] = ()

    @property
    def is_negated(self) -> bool:
        """Whether a flag is switched off, as by `--no-enable-lora`."""
        return self.word.startswith("--no-") and not self.option.startswith("--no-")


@dataclass(frozen=True)
class Parsed:
    """A command line as the engine takes it.

    Attributes:
        given: the options, in the order in which they are taken; a later one wins.
        of_server: options of `vllm serve` that the engine's worker does not have.
        unknown: other words that no parser takes; the engine ends with an error.
    """

    given: tuple[Given, ...]
    of_server: tuple[Given, ...] = ()
    unknown: tuple[str, ...] = ()


class _Record(argparse.Action):
    """Notes that an option is given."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words = (values,) if isinstance(values, str) else tuple(values or ())
        namespace.given.append(Given(self.dest, option_string or self.dest, words))


class _Parser(argparse.ArgumentParser):
    def __init__(self, *tables: Table, allow_abbrev: bool = True) -> None:
        super().__init__(add_help=False, allow_abbrev=allow_abbrev)
        for table in tables:
            for kind, options in table.items():
                for option in options.split():
                    names = option.split("/")
                    negated = [f"--no-{name.removeprefix('--')}" for name in names if name.startswith("--")]
                    if kind == "flag or its negation":
                        names = [*names, *negated]
                    self.add_argument(*names, action=_Record, nargs=_NARGS[kind], dest=names[0])

    def take(self, words: Sequence[str]) -> tuple[list[Given], list[str]]:
        """The options that this parser knows, and the other words."""
        namespace = argparse.Namespace(given=[])
        _, rest = self.parse_known_args(list(words), namespace)
        return namespace.given, rest

    def error(self, message: str) -> NoReturn:
        # A value could be a secret.
        message = re.sub(r"^(ambiguous option: [^= ]+)=\S*", r"\1", message)
        hint = "write its whole name" if message.startswith("ambiguous") else ""
        raise SpecError(f"engine arguments: the engine does not take them: {message}", hint)


@cache
def _parsers(engine: Engine) -> tuple[_Parser, ...]:
    tables = option_tables
    if engine == "mocker":
        return (_Parser(tables.MOCKER, tables.ROUTER),)
    return _Parser(tables.DYNAMO, allow_abbrev=False), _Parser(tables.ROUTER), _Parser(tables.VLLM)


@cache
def _server() -> _Parser:
    return _Parser(option_tables.SERVE)


@cache
def names(engine: Engine = "vllm") -> Mapping[str, str]:
    """Every name of an option of an engine's worker -> its first one."""
    actions = (action for parser in _parsers(engine) for action in parser._actions)
    return {name: action.dest for action in actions for name in action.option_strings}


@cache
def routers() -> frozenset[str]:
    """The options by which a worker tells the frontend how to route to it."""
    return frozenset(action.dest for action in _Parser(option_tables.ROUTER)._actions)


def parse(words: Sequence[str], engine: Engine = "vllm") -> Parsed:
    """How the engine takes these words.

    Raises:
        SpecError: it does not take them: an option lacks its value, or the beginning of a name could mean
            several.
    """
    return _parse(tuple(words), engine) if words else Parsed(())


@lru_cache(maxsize=256)
def _parse(words: tuple[str, ...], engine: Engine) -> Parsed:
    given: list[Given] = []
    rest = list(words)
    for parser in _parsers(engine):
        if parser is _parsers("vllm")[-1]:
            files, rest = _files(rest)
            given += files
            rest = _plain(rest)
        found, rest = parser.take(rest)
        given += found
    of_server, rest = _server().take(rest)
    spelled = {_dashed(word): word for word in words}
    return Parsed(tuple(given), tuple(of_server), tuple(spelled.get(word, word) for word in rest))


def _files(words: list[str]) -> tuple[list[Given], list[str]]:
    """The files of arguments, and the other words."""
    if CONFIG not in words:
        return [], words
    at = words.index(CONFIG)
    return [Given(CONFIG, CONFIG, tuple(words[at + 1 : at + 2]))], words[:at] + words[at + 2 :]


_OPTIMIZATION = "--optimization-level"
# Between the two hyphens and the first dot.
_NAME = re.compile(r"(?<=--)[^.]*")


def _plain(words: list[str]) -> list[str]:
    """As FlexibleArgumentParser turns them into what argparse understands."""
    spelt: list[str] = []
    for word, after in pairwise((*words, "")):
        if word.startswith("--"):
            spelt.append(_dashed(word))
        elif word.startswith("-O") and word != "-O":
            spelt += [_OPTIMIZATION, word[3:] if word[2] == "=" else word[2:]]
        elif word == "-O" and after in ("0", "1", "2", "3"):
            spelt.append(_OPTIMIZATION)
        else:
            spelt.append(word)
    return _with_whole_values(spelt)


def _dashed(word: str) -> str:
    """An option's name with hyphens for underscores; what is behind a dot or `=` stays."""
    name, equals, value = word.partition("=")
    return _NAME.sub(lambda match: match[0].replace("_", "-"), name, count=1) + equals + value


def _with_whole_values(words: list[str]) -> list[str]:
    """Options with a key behind a dot, as `--kv-transfer-config.kv_role x`, become one with all of its keys.

    Raises:
        SpecError: a key without a value.
    """
    result: list[str] = []
    values: dict[str, list[str]] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-") or "." not in name:
            result.append(word)
            continue
        given = value if equals else next(rest, None)
        if given is None:
            raise SpecError(f"engine arguments: {name} has no value", "write one behind it")
        option, _, keys = name.partition(".")
        values.setdefault(option, []).append(f"{keys}={given}")
    for option, keyed in values.items():
        result += [option, ", ".join(keyed)]
    return result
