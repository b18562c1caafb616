"""The generated parts of pages that people write: an example, the faults, the dashboard, the first tries."""

from __future__ import annotations

import json
import re
import runpy

from dynamoctl.export import grafana_panels
from page_parts import DOCS, between, fenced, table, with_section

CONFIG = DOCS / "config.md"
RELIABILITY = DOCS / "reliability.md"
OBSERVABILITY = DOCS / "observability.md"
FIRST_TRIES = DOCS / "first-tries.md"
FAULTS = DOCS / "faults.json"
TRIES = DOCS.parent / "tests" / "unit" / "first_tries.py"
EXAMPLE = DOCS.parent / "examples" / "agg.toml"


def config() -> str:
    """docs/config.md with the example from its file."""
    example = fenced(EXAMPLE.read_text(encoding="utf-8").rstrip("\n"), "toml")
    return with_section(CONFIG, EXAMPLE.name, example)


def first_tries() -> str:
    """docs/first-tries.md with what the test of this name tries, and what it asserts of the answers."""
    rows = []
    for one in runpy.run_path(str(TRIES))["TRIES"]:
        before = "".join(f", with `{name}={value}`" for name, value in one.env.items())
        # Words with a backtick in them stand between two.
        says = " … ".join(f"`` {words} ``" if "`" in words else f"`{words}`" for words in one.says)
        rows.append((one.what + before, f"`{one.words}`" if one.words else "", str(one.code), says))
    head = ("what is tried", "words after `dynamoctl`", "exit code", "what is said")
    return with_section(FIRST_TRIES, "tries", table(head, rows))


def reliability() -> str:
    """docs/reliability.md with what the fault tests saw, and what a plain script did."""
    seen = json.loads(FAULTS.read_text(encoding="utf-8"))
    ours, script = seen["dynamoctl"], seen.get("script", {})
    matrix = [
        (fault, row["does"], str(row["orphans"]), str(row["bytes"])) for fault, row in sorted(ours.items())
    ]
    beside = [
        (
            fault,
            # A start that is broken off is not meant to serve.
            "-" if fault.startswith("Ctrl-C") else "yes" if row["serves"] else "no",
            str(row["orphans"]),
            f"{row['bytes']:,}",
            ours[fault]["does"],
            f"{ours[fault]['orphans']} / {ours[fault]['bytes']}",
        )
        for fault, row in script.items()
    ]
    page = with_section(
        RELIABILITY, "matrix", table(("fault", "what dynamoctl does", "orphans", "bytes left"), matrix)
    )
    head = (
        "fault",
        "script: serves again",
        "script: orphans",
        "script: bytes left",
        "dynamoctl",
        "orphans / bytes",
    )
    return between(page, "beside", table(head, beside) if beside else "")


def observability() -> str:
    """docs/observability.md with what the dashboard shows, and of which metrics."""
    parts = []
    for title, panels in grafana_panels.ROWS:
        rows = [(panel.title, panel.means, ", ".join(_metrics(panel))) for panel in panels]
        parts += [f"### {title}\n", table(("panel", "what it says", "metrics"), rows)]
    return with_section(OBSERVABILITY, "panels", "\n" + "\n".join(parts) + "\n")


def _metrics(panel: grafana_panels.Panel) -> list[str]:
    names = (name for one in panel.queries for name in re.findall(r"([a-z_:0-9]+)\{", one.expr))
    return [f"`{name}`" for name in dict.fromkeys(names)]
