#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `uv pip install NAME==VERSION` installs another version if the folder that it runs in has an override.
#
# Library   uv 0.13.9, the newest on PyPI (2026-11).
# Set up    A folder whose pyproject.toml has `override-dependencies = ["six==1.16.0"]` in [tool.uv], for the
#           project's own resolution. Another environment, named with `--python`, which is to have the exact
#           version of a list, `six==1.17.0`; `--no-deps`, so that nothing is resolved.
# Expected  six 1.17.0, as `uv pip sync` installs it from the same list, or an error.
# Seen      six 1.16.0, by name and from the list, with exit code 0 and no word about the override. With
#           `--no-config`, or from another folder, it is 1.17.0.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9

mkdir "$work/project"
cd "$work/project"
cat >pyproject.toml <<'TOML'
[project]
name = "project"
version = "0"
requires-python = ">=3.11"

[tool.uv]
override-dependencies = ["six==1.16.0"]
TOML
echo "six==1.17.0" >list.txt

changed=0
check() { # EXPECTED UV'S WORDS...: the version that is there afterwards
    local expected=$1 seen
    shift
    rm -rf "$work/environment"
    python3 -m venv "$work/environment"
    "$work/tools/bin/uv" --quiet "$@" --python "$work/environment/bin/python"
    seen=$("$work/environment/bin/python" -c 'import six; print(six.__version__)')
    echo "uv $*: asked for 1.17.0, there is $seen"
    [ "$seen" = "$expected" ] || changed=1
}
check 1.16.0 pip install --no-deps six==1.17.0
check 1.16.0 pip install --no-deps -r list.txt
check 1.17.0 pip sync list.txt
check 1.17.0 pip install --no-config --no-deps -r list.txt
if [ "$changed" = 0 ]; then
    echo "as described"
else
    echo "CHANGED: not as described"
    exit 1
fi
