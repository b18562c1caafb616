#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# With pytest 9.2, pytest-xdist no longer keeps the tests of an xdist_group in one process.
#
# Library   pytest-xdist 3.8.0 with pytest 9.2.0; both are the newest on PyPI (2026-11), and 3.8.0 asks for
#           pytest >= 7.0.0. Beside it, the same with pytest 9.1.1.
# Expected  With `-n 2 --dist loadgroup`, all tests with `@pytest.mark.xdist_group("one")` run in the same process,
#           whatever pytest it is: those that share a server, a port or a GPU rely on it.
# Seen      With 9.2.0 the mark is ignored without a word: the tests are handed out one by one. pytest-xdist hands
#           the group on at the end of the item's node id, by a private attribute that pytest 9.2 has no more
#           (pytest-xdist's issue 1386).
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

cat >"$work/test_group.py" <<'PY'
import os
import time

import pytest

pytestmark = pytest.mark.xdist_group("one")


@pytest.mark.parametrize("number", range(12))
def test_where(number):
    time.sleep(0.1)  # long enough for the other process to ask for work
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PY

# processes_of PYTEST: in how many processes the tests of the group ran with that pytest
processes_of() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/pip" install --quiet "pytest==$1" pytest-xdist==3.8.0 >&2
    SEEN="$work/seen-$1" timeout 120 "$work/$1/bin/python" -m pytest -q -p no:cacheprovider \
        -n 2 --dist loadgroup "$work/test_group.py" >&2
    sort -u "$work/seen-$1" | wc -l
}

before=$(processes_of 9.1.1)
now=$(processes_of 9.2.0)
echo "pytest-xdist 3.8.0, one group of 12 tests, 2 processes"
echo "pytest 9.1.1: expected 1 process, seen $before"
echo "pytest 9.2.0: expected 1 process, seen $now"
if [ "$before" = 1 ] && [ "$now" = 2 ]; then
    echo "as described"
else
    echo "CHANGED: not as described"
    exit 1
fi
