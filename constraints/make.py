"""Write the exact version of every package that an extra brings: constraints/cpu.txt and constraints/gpu.txt.

python constraints/make.py              run it in the environment of the checks
python constraints/make.py --upgrade    take the newest versions that fit, whatever is installed

What is installed where it runs comes first, so that the files name what the tests ran with; then what the
files say already. uv resolves the rest, with the overrides of pyproject.toml. It needs uv on the PATH.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker

HERE = Path(__file__).parent
EXTRAS = ("cpu", "gpu")
HEAD = """\
# Every package of dynamoctl[{extra}], on Linux x86-64 with Python 3.11 or 3.12.
# Written by constraints/make.py: run it again, do not edit this.
"""
# uv says it on each line; dynamoctl runs nowhere else.
_EVERYWHERE = "platform_machine == 'x86_64' and sys_platform == 'linux'"
_PYTHONS = ("3.11.0", "3.11.99", "3.12.0", "3.12.99")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    options = parser.parse_args()
    for extra in EXTRAS:
        path = HERE / f"{extra}.txt"
        known = "" if options.upgrade else _preferred(path)
        path.write_text(HEAD.format(extra=extra) + resolved(extra, known), encoding="utf-8")
    return 0


def _preferred(path: Path) -> str:
    """Lines that uv keeps to where it can: what is installed, then what the file says."""
    installed = {_normal(one.name): one.version for one in importlib.metadata.distributions()}
    lines = [f"{name}=={version}" for name, version in sorted(installed.items())]
    if path.exists():
        before = path.read_text(encoding="utf-8").splitlines()
        lines += [line for line in before if _normal(re.split("[=#]", line)[0]) not in installed]
    return "\n".join(lines) + "\n"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved(extra: str, known: str) -> str:
    """What an extra brings, a package a line.

    Args:
        known: versions that are kept where they fit, in the same form.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pins.txt"
        output.write_text(known, encoding="utf-8")
        # uv reads the versions that are in its output file already, and keeps to them.
        argv = ["uv", "pip", "compile", "pyproject.toml", "--extra", extra, "--universal", "--quiet"]
        argv += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
        subprocess.run([*argv, "--output-file", str(output)], cwd=HERE.parent, check=True)
        lines = output.read_text(encoding="utf-8").splitlines()
    return "".join(_short(line) + "\n" for line in lines)


def _short(line: str) -> str:
    """The same without what is true wherever dynamoctl runs."""
    pin, _, marker = line.partition(" ; ")
    host = {"platform_machine": "x86_64", "sys_platform": "linux", "implementation_name": "cpython"}
    host["platform_python_implementation"] = "CPython"
    if not marker or all(
        Marker(marker).evaluate({**host, "python_version": full[:4], "python_full_version": full})
        for full in _PYTHONS
    ):
        return pin
    return f"{pin} ; {marker.removesuffix(' and ' + _EVERYWHERE)}"


if __name__ == "__main__":
    sys.exit(main())
