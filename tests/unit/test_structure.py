"""A stranger finds his way in the package: few modules at the top, none too long, short parameter lists."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STRUCTURE: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "structure.py"))
LINES: dict[str, int] = STRUCTURE["modules"](ROOT / "dynamoctl")
PARAMETERS: dict[str, int] = STRUCTURE["parameters"](ROOT / "dynamoctl")


def test_few_modules_are_at_the_top() -> None:
    top = {name for name in LINES if "/" not in name}
    assert top == {
        "__init__.py",
        "__main__.py",
        "errors.py",
        "facts.py",
        "humanize.py",
        "policies.py",
        "state.py",
        "tested_versions.py",
    }


def test_no_module_is_longer_than_400_lines() -> None:
    assert {name: lines for name, lines in LINES.items() if lines > 400} == {}


def test_no_function_takes_more_than_eleven_parameters() -> None:
    assert {name: count for name, count in PARAMETERS.items() if count > 11} == {}


def test_the_planners_functions_take_five_at_most() -> None:
    planner = {name: count for name, count in PARAMETERS.items() if name.startswith("planner/")}
    assert {name: count for name, count in planner.items() if count > 5} == {}
