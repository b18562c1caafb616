"""Each fault that a test brings about is a row of docs/reliability.md, and each row has its test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.matrix import published

ROOT = Path(__file__).parents[2]
COLLECT = """
import json, sys, pytest

class Marks:
    def pytest_collection_modifyitems(self, items):
        self.rows = {mark.args[0]: mark.args[1] for item in items for mark in item.iter_markers("fault")}

marks = Marks()
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests/e2e"], plugins=[marks])
print(json.dumps(marks.rows))
sys.exit(code)
"""


def test_the_tests_rows_are_those_of_the_page() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    marked = json.loads(done.stdout.splitlines()[-1])
    assert marked == {fault: row["does"] for fault, row in published().items()}
