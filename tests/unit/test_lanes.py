"""What a longer lane alone reaches is listed by function."""

from __future__ import annotations

from pathlib import Path

from tests.lanes_coverage import by_function, functions

SOURCE = """\
import os

def plain(x):
    if x:
        return 1
    return 2

class Kind:
    @property
    def name(self):
        def inner():
            return 3
        return inner()
"""


def test_a_line_is_of_its_innermost_function_and_a_def_of_what_is_around_it() -> None:
    found = functions(SOURCE)
    assert found == {
        **dict.fromkeys((4, 5, 6), "plain"),
        11: "Kind.name", 12: "Kind.name.inner", 13: "Kind.name",
    }  # fmt: skip


def test_a_function_that_no_lane_before_enters_is_marked(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(SOURCE)
    imported = {1, 3, 8, 9, 10}
    assert by_function(str(file), {6, 11, 12, 13}, imported | {4, 5}) == [
        "plain: 6",
        "Kind.name, entered by no lane before: 11, 13",
        "Kind.name.inner, entered by no lane before: 12",
    ]
    assert by_function(str(file), imported, set()) == ["(module), entered by no lane before: 1, 3, 8-10"]
