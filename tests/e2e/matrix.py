"""The faults that the tests bring about, and what was seen after each: rows of docs/reliability.md.

A test with `@pytest.mark.fault(WHAT HAPPENS, WHAT DYNAMOCTL DOES)` proves the second by its assertions.
When its module's deployments are down, what is left is counted.

    FAULTS=docs/faults.json pytest tests/e2e      writes what was seen there, for docs/generate.py

Without FAULTS, what was seen must be what stands there, as far as it does. Nothing may be left either way.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parents[2] / "docs" / "faults.json"

_seen: dict[str, dict[str, str]] = {}
_settled: dict[str, dict[str, Any]] = {}


def saw(module: str, fault: str, does: str, *, passed: bool) -> None:
    """A test of this fault has ended. One that failed is no row, whatever other cases of it did."""
    if passed:
        _seen.setdefault(module, {}).setdefault(fault, does)
    else:
        _seen.setdefault(module, {})[fault] = ""


def settle(module: str, orphans: int, bytes_left: int) -> None:
    """All of a module's deployments have been taken down.

    Args:
        orphans: processes of theirs that live.
        bytes_left: what else of theirs is there.
    """
    rows = {fault: does for fault, does in _seen.pop(module, {}).items() if does}
    for fault, does in rows.items():
        _settled[fault] = {"does": does, "orphans": orphans, "bytes": bytes_left}
    if "FAULTS" not in os.environ:
        published = json.loads(PUBLISHED.read_text(encoding="utf-8"))["dynamoctl"]
        known = rows.keys() & published.keys()
        assert {fault: _settled[fault] for fault in known} == {fault: published[fault] for fault in known}
    assert (orphans, bytes_left) == (0, 0)


def write() -> None:
    """Put the rows into the file that FAULTS names, beside what stands there for other runs."""
    if "FAULTS" not in os.environ or not _settled:
        return
    path = Path(os.environ["FAULTS"])
    body = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    body["dynamoctl"] = dict(sorted({**body.get("dynamoctl", {}), **_settled}.items()))
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
