"""constraints/*.txt: every package has one exact version, and the ones that pyproject.toml names fit it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_a_line_is_a_name_and_a_version_alone(extra: str) -> None:
    lines = pins(extra)
    assert len(lines) > 200
    assert [line for line in lines if not _LINE.fullmatch(line)] == []


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
