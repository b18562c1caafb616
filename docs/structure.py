"""Count what makes a package easy or hard to find one's way in.

    python docs/structure.py [FOLDER]        default: dynamoctl

Printed are the number of modules, those at the top, the longest modules (lines) and the longest parameter
lists of functions that are not commands (Typer makes each flag of a command a parameter). `lint-imports`
shows import circles and imports that point upward.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "dynamoctl"


def modules(root: Path) -> dict[str, int]:
    """Module file, from the root -> its lines."""
    return {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(root.rglob("*.py"))
    }


def parameters(root: Path) -> dict[str, int]:
    """`FILE:FUNCTION` -> how many parameters it has, without those of `cli/`, which are flags."""
    found: dict[str, int] = {}
    for path in sorted(root.rglob("*.py")):
        name = str(path.relative_to(root))
        if name.startswith("cli/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args
                every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
                found[f"{name}:{node.name}"] = len(every)
    return found


def main() -> None:
    """Print it."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    lines, counts = modules(root), parameters(root)
    print(f"{len(lines)} modules, {sum('/' not in name for name in lines)} of them at the top")
    for title, found in (("longest modules", lines), ("longest parameter lists", counts)):
        print(f"{title}:")
        for name in sorted(found, key=lambda name: -found[name])[:5]:
            print(f"  {found[name]:4}  {name}")


if __name__ == "__main__":
    main()
