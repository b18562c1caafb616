"""The import rules of the design, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dynamoctl
import pytest

from tests.unit.fresh import last_line

ROOT = Path(dynamoctl.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
PROCESS = ROOT / "supervisor" / "process.py"

# What starts or signals a process, as it would be written after its module's name.
SPAWNING = {
    "os": {"kill", "killpg", "fork", "forkpty", "system", "popen", "posix_spawn", "posix_spawnp"},
    "signal": {"pidfd_send_signal", "pthread_kill", "raise_signal"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}
SPAWNING_MODULES = {"subprocess", "multiprocessing", "pty"}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in SOURCES}


def imports(file: Path) -> Iterator[str]:
    """Every module, and every name in one, that is imported anywhere in a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def spawns(file: Path) -> set[str]:
    """Everything in a file that starts or signals a process."""
    found = {name for name in imports(file) if name.partition(".")[0] in SPAWNING_MODULES}
    found |= {
        name
        for name in imports(file)
        if name.partition(".")[2] in SPAWNING.get(name.partition(".")[0], set())
    }
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, attribute = node.value.id, node.attr
            execs = module == "os" and attribute.startswith(("exec", "spawn"))
            if execs or attribute in SPAWNING.get(module, set()):
                found.add(f"{module}.{attribute}")
        # psutil's processes can be signalled too.
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"send_signal", "terminate"}
        ):
            found.add(node.func.attr)
    return found


def reached(start: str) -> set[str]:
    """Our modules that a package imports, directly or by way of others."""
    todo = {name for name in MODULES if name == start or name.startswith(f"{start}.")}
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= {one for one in imports(MODULES[name]) if one in MODULES} - seen
    return seen


def test_there_is_something_to_read() -> None:
    assert "dynamoctl.planner.plan" in MODULES
    assert spawns(PROCESS) >= {"subprocess", "signal.pidfd_send_signal"}


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_only_the_cli_draws(file: Path) -> None:
    if ROOT / "cli" not in file.parents:
        assert not {name.partition(".")[0] for name in imports(file)} & {"typer", "rich"}


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_only_one_module_spawns_and_signals(file: Path) -> None:
    if file != PROCESS:
        assert spawns(file) == set()


@pytest.mark.parametrize("start", ["dynamoctl.planner", "dynamoctl.spec", "dynamoctl.export"])
def test_the_planner_is_handed_facts(start: str) -> None:
    """Nothing that it imports, by whatever way, looks at the host."""
    forbidden = ("host", "state", "probes", "supervisor", "operations", "observe", "doctor", "cli")
    packages = {name.split(".")[1] for name in reached(start) if "." in name}
    assert not packages & set(forbidden)


@pytest.mark.parametrize("package", ["host", "state", "probes"])
def test_leaves_import_nothing_above_them(package: str) -> None:
    above = {"supervisor", "operations", "observe", "doctor", "cli"}
    assert not {name.split(".")[1] for name in reached(f"dynamoctl.{package}") if "." in name} & above


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_nobody_but_the_cli_and_the_program_imports_the_cli(file: Path) -> None:
    if ROOT / "cli" not in file.parents and file.name != "__main__.py":
        assert not any(name.startswith("dynamoctl.cli") for name in imports(file))


def test_the_supervisor_has_no_library_that_it_does_not_need() -> None:
    script = """
import sys
import dynamoctl.supervisor.run
print(sorted({"httpx2", "anyio", "prometheus_client", "importlib.metadata"} & sys.modules.keys()))
"""
    assert last_line(script) == "[]"
