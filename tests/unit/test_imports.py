"""The rules of the design that import-linter cannot see, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dynamoctl

from tests.unit.fresh import last_line

ROOT = Path(dynamoctl.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
PROCESS = ROOT / "processes" / "process_control.py"
# It runs in an engine's processes.
FORK_SERVER = ROOT / "patches" / "fork_server.py"

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


def test_there_is_something_to_read() -> None:
    assert "dynamoctl.planner.plan" in MODULES
    assert spawns(PROCESS) >= {"subprocess", "signal.pidfd_send_signal"}


def test_only_the_cli_draws() -> None:
    drawing = {
        name_of(file)
        for file in SOURCES
        if {name.partition(".")[0] for name in imports(file)} & {"typer", "rich"}
    }
    assert drawing
    assert {name for name in drawing if not name.startswith("dynamoctl.cli.")} <= {"dynamoctl.cli"}


def test_only_one_module_spawns_and_signals() -> None:
    assert {file for file in SOURCES if spawns(file)} == {PROCESS, FORK_SERVER}


def test_the_supervisor_has_no_library_that_it_does_not_need() -> None:
    script = """
import sys
import dynamoctl.supervisor.run
print(sorted({"httpx2", "anyio", "prometheus_client", "importlib.metadata"} & sys.modules.keys()))
"""
    assert last_line(script) == "[]"


def test_flags_are_there_without_what_checks_them() -> None:
    script = """
import sys
import dynamoctl.cli.plan_flags
print(sorted({"pydantic", "dynamoctl.config.types", "dynamoctl.config.spec"} & sys.modules.keys()))
"""
    assert last_line(script) == "[]"
