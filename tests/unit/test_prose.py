"""The words of the documentation and of the program: plain technical English, as CONTRIBUTING.md asks for.

Checked are the hand-written pages, and every string literal of the package and of docs/*.py:
help texts, messages, docstrings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = "AIPerf|Dynamo|dynamoctl|etcd|LMCache|NIXL|PyPI|Redis|systemd|torch|UCX|vLLM"
_NO_NOUN = "and|are|does|for|has|in|is|may|or|that|to|was|which"

# Pattern -> what to write instead. Only what is wrong in every context: no failure needs to be weighed.
DISCOURAGED = {
    r"\bmend(s|ed|ing)?\b": "fix",
    # "the size of vLLM's cache" is fine; "a cache of vLLM's" is a double genitive.
    rf"\bof (?:{PROJECTS})'s(?=$|[.,;:)]| (?:{_NO_NOUN})\b)": "X's Y",
    r"(?<!\bhere )(?<!\bThere )(?<!\bthere )\b(?:are|is) no (?!less\b|longer\b|more\b)": "is not a",
    r"\b(?:engine|frontend|process|program|server|supervisor|unit|worker)s? who\b": "that",
    r"\bwhere (?:it has none|nobody|none|there (?:are|is))\b": "if",
    r"\b(?:stands?|stood) still\b": "stall",
    r"\bas (?:it stands|they stand)\b": "unchanged",
    r"\bwithout a word\b": "silently",
}

# Sentences that were once printed or written here and must not come back; in parts, as some contain values.
RETIRED = (
    "Seconds that requests in flight get when it is taken down",
    "What runs on this host: of frontend, decode, prefill",
    "Small letters and capitals are alike",
    "The same one makes the same prompts; without it they are new",
    "ends it with exit code 3 and a mend",
    "a disk is emptied of its meaning",
    "is no GPU: give indices",
    "did not answer it in time, or this host stood still",
)

_PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "findings/README.md", "docs/**/*.md")
_GENERATED_PAGES = ("docs/reference.md",)
_GENERATED_PART = re.compile(r"<!-- ([\w. ]+) -->.*?<!-- end of \1 -->", re.DOTALL)
# Program output, commands and quoted messages are checked where they are written, not where they are quoted.
_CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_TEXT = {".1", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yml", ""}
_SEARCHED = (".github", "benchmarks", "constraints", "docs", "dynamoctl", "examples", "findings", "tests")
# Between the parts of an implicitly concatenated literal.
_SEAM = re.compile(r"""(["'])\s*\n\s*[frb]{0,2}\1""")


def pages() -> Iterator[Path]:
    """The hand-written pages."""
    for pattern in _PAGES:
        for path in sorted(ROOT.glob(pattern)):
            if str(path.relative_to(ROOT)) not in _GENERATED_PAGES:
                yield path


def prose_of_page(text: str) -> Iterator[str]:
    """A page's lines, without generated parts and without code."""
    yield from _CODE.sub("CODE", _GENERATED_PART.sub("", text)).splitlines()


def prose_of_module(text: str) -> Iterator[str]:
    """A module's string literals, docstrings among them; of an f-string the parts between the values."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


def discouraged(lines: Iterator[str]) -> list[str]:
    """What is wrong in these lines: the phrase, what to write instead, and the line."""
    return [
        f"{match[0]!r}, better {better!r}: {line[max(0, match.start() - 50) : match.end() + 40]}"
        for line in lines
        for pattern, better in DISCOURAGED.items()
        if (match := re.search(pattern, line))
    ]


def retired(text: str) -> list[str]:
    """The retired sentences in a file, however its lines are broken."""
    flat = " ".join(_SEAM.sub("", text).split())
    return [f"retired: {sentence}" for sentence in RETIRED if sentence in flat]


def files() -> Iterator[Path]:
    """Every text file of the repository but this one."""
    inside = (path for name in _SEARCHED for path in (ROOT / name).rglob("*"))
    for path in [*ROOT.glob("*"), *inside]:
        if path.is_file() and path.suffix in _TEXT and path != Path(__file__):
            yield path


def problems() -> dict[str, list[str]]:
    """File, from the root -> what is wrong in it."""
    found: dict[str, list[str]] = {}
    for page in pages():
        found[str(page.relative_to(ROOT))] = discouraged(prose_of_page(page.read_text(encoding="utf-8")))
    for module in [*sorted((ROOT / "docs").glob("*.py")), *sorted((ROOT / "dynamoctl").rglob("*.py"))]:
        text = module.read_text(encoding="utf-8")
        found[str(module.relative_to(ROOT))] = discouraged(prose_of_module(text))
    for path in files():
        name = str(path.relative_to(ROOT))
        found[name] = found.get(name, []) + retired(path.read_text(encoding="utf-8", errors="replace"))
    return {name: wrong for name, wrong in found.items() if wrong}


def test_the_prose_is_plain() -> None:
    found = problems()
    assert not found, "\n".join(f"{name}: {text}" for name, wrong in found.items() for text in wrong)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("how to mend it", True),
        ("recommended", False),
        ("a tier or a setting of LMCache's.", True),
        ("a multiple of vLLM's block size", False),
        ("'x' is no size", True),
        ("There is no flag for it, and there are no passwords", False),
        ("it is no longer moved", False),
        ("a worker who died", True),
        ("anyone who reaches the port", False),
        ("null where there is none", True),
        ("where the KV cache is", False),
        ("the host stood still", True),
        ("a file that runs as it stands", True),
        ("ignores it without a word", True),
    ],
)
def test_a_phrase_is_found_or_left(line: str, wrong: bool) -> None:
    assert bool(discouraged(iter([line]))) is wrong


def test_only_prose_is_read() -> None:
    page = "Text.\n\n```text\nmend\n```\n\n`mend` <!-- rows -->\nmend\n<!-- end of rows -->\n"
    assert not discouraged(prose_of_page(page))
    module = '"""Mends it: mends."""\nmend = {"key": f"{1} is no GPU: give indices"}  # mend\n'
    assert [text.partition(",")[0] for text in discouraged(prose_of_module(module))] == [
        "'mends'",
        "'is no '",
    ]


def test_a_retired_sentence_is_found_over_the_end_of_a_line() -> None:
    assert retired('help="Small letters and "\n    "capitals are alike to --grep."')
    assert retired("Small letters and\ncapitals are alike")
    assert not retired("Match --grep case-insensitively.")
