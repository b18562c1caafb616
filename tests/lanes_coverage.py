"""What the tests of each lane reach, and what the long lanes alone do, by function: shown, and not a gate.

    python tests/lanes_coverage.py [quick|mocker|engine ...]     default: quick mocker

Branches count, and so do subprocesses; one that is killed says nothing. `engine` takes a while: each process
of vLLM is measured as well.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import coverage

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".coverage.lanes"
LANES = {
    "quick": ["--numprocesses", "logical", "tests/unit"],
    "mocker": ["--numprocesses", "auto", "-m", "mocker", "tests/e2e"],
    "engine": ["--numprocesses", "auto", "-m", "engine", "tests/e2e"],
}


def measure(lane: str) -> coverage.CoverageData:
    """Run a lane's tests; they may fail."""
    data = FOLDER / lane
    for old in FOLDER.glob(f"{lane}*"):
        old.unlink()
    command = [sys.executable, "-m", "coverage", "run", f"--data-file={data}", "-m", "pytest", "-q"]
    subprocess.run([*command, *LANES[lane]], cwd=ROOT, check=False)
    subprocess.run(
        [sys.executable, "-m", "coverage", "combine", "-q", f"--data-file={data}"], cwd=ROOT, check=True
    )
    found = coverage.CoverageData(str(data))
    found.read()
    return found


def shown(numbers: set[int]) -> str:
    """`3-5, 9` for lines in order."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def functions(source: str) -> dict[int, str]:
    """The innermost function of each line in one, by its qualified name; where it begins is outside of it.

    The line of its `def` runs when the module is imported, its body when it is called.
    """
    found: dict[int, str] = {}

    def walk(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    last = child.end_lineno or child.lineno
                    found.update(dict.fromkeys(range(child.body[0].lineno, last + 1), inner))
                walk(child, inner)
            else:
                walk(child, name)

    walk(ast.parse(source), "")
    return found


def by_function(file: str, alone: set[int], before: set[int]) -> list[str]:
    """`function: lines` for each; a function that no lane before enters is marked as a whole."""
    of = functions((ROOT / file).read_text(encoding="utf-8"))
    entered = {of.get(number, "") for number in before}
    grouped: dict[str, set[int]] = {}
    for number in alone:
        grouped.setdefault(of.get(number, ""), set()).add(number)
    return [
        f"{name or '(module)'}{'' if name in entered else ', entered by no lane before'}: {shown(numbers)}"
        for name, numbers in sorted(grouped.items(), key=lambda one: min(one[1]))
    ]


def lines_of(data: coverage.CoverageData) -> dict[str, set[int]]:
    return {
        os.path.relpath(file, ROOT): set(data.lines(file) or ())
        for file in data.measured_files()
        if Path(file).exists()
    }


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    before: dict[str, set[int]] = {}
    for name in names or ["quick", "mocker"]:
        data = measure(name)
        print(f"\n{name}:", flush=True)
        report = ["report", f"--data-file={FOLDER / name}", "--skip-covered"]
        subprocess.run([sys.executable, "-m", "coverage", *report], cwd=ROOT, check=True)
        if before:
            print(f"\nLines that {name} reaches, and no lane before it:")
            for file, lines in sorted(lines_of(data).items()):
                if alone := lines - before.get(file, set()):
                    print(f"  {file}", *by_function(file, alone, before.get(file, set())), sep="\n    ")
        for file, lines in lines_of(data).items():
            before.setdefault(file, set()).update(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
