"""The documentation cannot drift from the program: the reference is made from it, its commands parse."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from dynamoctl import cli

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]

# What a page's commands stand in: a shell's lines, a terminal session's after "$ ", a systemd unit's Exec*=.
_FENCE = re.compile(r"^```(sh|console|ini)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(dynamoctl [^`]+)`")
_BEFORE = {"sh": "", "console": r"\$ ", "ini": r"Exec\w+=-?"}
_BETWEEN = set("();<>|&")


def test_the_reference_is_what_the_program_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} -> {target}"


def commands_of(text: str) -> Iterator[list[str]]:
    """The words after `dynamoctl` of every command in a page's fences and in its code spans."""
    for language, body in _FENCE.findall(text):
        lines = re.findall(rf"^{_BEFORE[language]}(.+)$", body.replace("\\\n", " "), re.MULTILINE)
        for line in lines:
            yield from commands_in(line)
    for span in _INLINE.findall(_ANY_FENCE.sub("", text)):
        # In brackets: what may be left out, as in `logs [UNIT] [-f]`. A name alone is no command line.
        for words in commands_in(span.replace("[", "").replace("]", "")):
            if len(words) > 1:
                yield words


def commands_in(line: str) -> Iterator[list[str]]:
    """The same of one line of a shell, and of what is quoted or substituted in it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    simple: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= _BETWEEN:
            simple.append(word)
            if "dynamoctl " in word:
                yield from commands_in(word)
            continue
        names = [i for i, name in enumerate(simple) if name.rpartition("/")[2] == "dynamoctl"]
        # The first word, or after another program that runs it; but not an option's value.
        if names and not (names[0] and simple[names[0] - 1].startswith("-")):
            yield simple[names[0] + 1 :]
        simple = []


def parse(words: list[str]) -> None:
    """Parse a command line as the program does, and run nothing.

    Raises:
        typer.TyperException: it has an unknown command, an unknown flag, or a value of the wrong type.
    """
    command: Any = typer.main.get_command(cli.app())
    path = "dynamoctl"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        path, name, words = f"{path} {words[0]}", words[0], words[1:]
        if name not in command.commands:
            raise typer.BadParameter(f"no command: {path}")
        command = command.commands[name]
    with contextlib.suppress(typer.Exit):  # it was asked for help, and has given it
        command.make_context(path, words).close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_page_parses(page: Path) -> None:
    for words in commands_of(page.read_text(encoding="utf-8")):
        try:
            parse(list(words))
        except typer.TyperException as error:
            pytest.fail(f"dynamoctl {shlex.join(words)}: {error.format_message()}")


def test_commands_are_found_wherever_a_page_has_them() -> None:
    page = """
Inline: `dynamoctl logs [UNIT] [-f]`; `dynamoctl up` alone and `up agg` are none.

```sh
./bootstrap dynamoctl up agg -- --enforce-eager   # a comment: dynamoctl nonsense
endpoint=$(dynamoctl status --json | jq -r .endpoint)
unshare --net sh -c 'ip link set lo up && exec dynamoctl up disagg'
dynamoctl up disagg --decode 2 \\
    --gpus 0,1,2 || dynamoctl down
```
```console
$ dynamoctl cache check
LMCache gave back dynamoctl nonsense
```
```ini
ExecStop=%h/.venv/bin/dynamoctl down -n web
```
"""
    assert sorted(commands_of(page)) == sorted(
        [
            ["logs", "UNIT", "-f"],
            ["up", "agg", "--", "--enforce-eager"],
            ["status", "--json"],
            ["up", "disagg"],
            ["up", "disagg", "--decode", "2", "--gpus", "0,1,2"],
            ["down"],
            ["cache", "check"],
            ["down", "-n", "web"],
        ]
    )


@pytest.mark.parametrize(
    "line",
    [
        "dynamoctl upp agg",
        "dynamoctl up agg --prefil 2",
        "dynamoctl up agg --lmcache-mode server",
        "dynamoctl up agg --port http",
        "dynamoctl cache chek",
        "dynamoctl down every thing",
    ],
)
def test_a_command_that_would_not_run_is_told(line: str) -> None:
    (words,) = commands_in(line)
    with pytest.raises(typer.TyperException):
        parse(words)
