"""Markdown that the generated pages are made of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the program: change the program, not this file. -->"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def table_rows(markdown: str) -> list[list[str]]:
    """The cells of the table in a text, without its head."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```\n"


def with_section(page: Path, name: str, text: str) -> str:
    """A page with this text between its marks of this name."""
    return between(page.read_text(encoding="utf-8"), name, text)


def between(page: str, name: str, text: str) -> str:
    """A page's text with this text between its marks of this name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + text + end + after
