"""The faults that the tests bring about, and what was seen after each: rows of docs/reliability.md.

A test with `@pytest.mark.fault(WHAT HAPPENS, WHAT DYNAMOCTL DOES)` proves the second by its assertions.
When its module's deployments are down, what is left is counted.

    FAULTS=docs/faults.json pytest tests/e2e      writes what was seen there, for docs/generate.py

Without FAULTS, what was seen must be what stands there. Nothing may be left either way.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

PUBLISHED = Path(__file__).parents[2] / "docs" / "faults.json"

_seen: dict[str, dict[str, str]] = {}
_settled: dict[str, dict[str, Any]] = {}


def published() -> dict[str, dict[str, Any]]:
    """The rows of docs/reliability.md: fault -> what dynamoctl does, and what is left."""
    rows = json.loads(PUBLISHED.read_text(encoding="utf-8"))["dynamoctl"]
    assert isinstance(rows, dict)
    return rows


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
    seen = {fault: does for fault, does in _seen.pop(module, {}).items() if does}
    rows = {fault: {"does": does, "orphans": orphans, "bytes": bytes_left} for fault, does in seen.items()}
    _settled.update(rows)
    if "FAULTS" not in os.environ:
        there = published()
        assert rows == {fault: there.get(fault) for fault in rows}, "write them: FAULTS, and docs/generate.py"
    assert (orphans, bytes_left) == (0, 0)


def hand_on(config: pytest.Config) -> None:
    """The run is over: a process of pytest-xdist leaves it to the first one to write what it saw."""
    if hasattr(config, "workeroutput"):
        config.workeroutput["faults"] = _settled
    elif "FAULTS" in os.environ and _settled:
        _write(Path(os.environ["FAULTS"]))


def take(workeroutput: dict[str, Any]) -> None:
    """What a process of pytest-xdist has handed on."""
    _settled.update(workeroutput.get("faults", {}))


def _write(path: Path) -> None:
    """Put the rows into the file, beside what stands there of other runs."""
    body = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    body["dynamoctl"] = dict(sorted({**body.get("dynamoctl", {}), **_settled}.items()))
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
