"""The wheel has what pyproject.toml promises: types, the schema of dynamoctl.toml, the man page."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tomllib
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest
from dynamoctl import __version__
from dynamoctl.config import json_schema

ROOT = Path(__file__).parents[2]
MAN_PAGE = ROOT / "docs" / "dynamoctl.1"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]


@pytest.fixture(scope="module")
def manpage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manpage", ROOT / "docs" / "manpage.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_has_its_marker_of_types_and_its_schema() -> None:
    assert WHEEL["packages"] == ["dynamoctl"]  # all files in it
    assert "Typing :: Typed" in PYPROJECT["project"]["classifiers"]
    package = resources.files("dynamoctl")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath(json_schema.SCHEMA_NAME).read_text(encoding="utf-8") == json_schema.text()


def test_what_the_wheel_has_besides_the_package_is_there() -> None:
    assert WHEEL["shared-data"] == {
        "docs/dynamoctl.1": "share/man/man1/dynamoctl.1",
        "constraints/cpu.txt": "share/dynamoctl/constraints/cpu.txt",
        "constraints/gpu.txt": "share/dynamoctl/constraints/gpu.txt",
        "constraints/cpu-1.4.txt": "share/dynamoctl/constraints/cpu-1.4.txt",
        "constraints/gpu-1.4.txt": "share/dynamoctl/constraints/gpu-1.4.txt",
    }
    assert all((ROOT / source).is_file() for source in WHEEL["shared-data"])


def test_the_repository_has_its_address_from_pyproject_alone() -> None:
    urls = PYPROJECT["project"]["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert all(url.startswith(urls["Source"]) for url in urls.values())


def test_the_man_page_has_every_section_and_the_version() -> None:
    text = MAN_PAGE.read_text(encoding="utf-8")
    assert f'"dynamoctl {__version__}"' in text
    sections = re.findall(r"^\.SH (.+)$", text, re.MULTILINE)
    assert sections == [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ]


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
def test_groff_has_nothing_to_say_about_the_man_page() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", str(MAN_PAGE)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        ("As for `up`: see [below](#below).", r"As for \fBup\fP: see below."),
        ("`--all` or `-n`", r"\fB\-\-all\fP or \fB\-n\fP"),
        (".hidden", r"\&.hidden"),
        ("'quoted' \\n", r"\[aq]quoted\[aq] \[rs]n"),
        ("one\n  line …", r"one line \[u2026]"),
    ],
)
def test_words_become_roff(manpage: ModuleType, text: str, roff: str) -> None:
    assert manpage.roff(text) == roff
