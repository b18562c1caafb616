#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# safetensors 0.8 writes another matrix than the numpy array that it was given, if that is transposed.
#
# Library   safetensors 0.8.0, the newest on PyPI (2026-11), with numpy 2.2.6. Beside it, safetensors 0.7.0.
# Input     save_file of safetensors.numpy with an array of 2 by 3, its transpose, every second column of another, and
#           a copy in Fortran's order; load_file of what it wrote.
# Expected  Each array comes back equal, or save_file raises, as it does for torch's tensors that are not contiguous.
# Seen      With 0.8.0 the shapes are right, and the values of the last three are in the wrong places or are
#           others: the bytes are taken from memory as they lie there. No error and no warning. Code that transposes
#           weights before it saves them, as converters of checkpoints do, writes a broken model. With 0.7.0 all come
#           back equal (safetensors' issue 825).
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/save.py" <<'PY'
import json
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

plain = np.arange(6, dtype=np.float32).reshape(2, 3)
wide = np.arange(12, dtype=np.float32).reshape(2, 6)
arrays = {
    "plain": plain,
    "transposed": plain.T,
    "every second column": wide[:, ::2],
    "Fortran's order": np.asfortranarray(plain),
}
seen = {}
for name, array in arrays.items():
    save_file({"weight": array}, sys.argv[1])
    read = load_file(sys.argv[1])["weight"]
    seen[name] = read.shape == array.shape, array.tolist(), read.tolist()
print(json.dumps(seen))
PY

# saved_with VERSION: what was given and what came back, as JSON
saved_with() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/pip" install --quiet --disable-pip-version-check "safetensors==$1" numpy==2.2.6 >&2
    timeout 60 "$work/$1/bin/python" "$work/save.py" "$work/file-$1"
}

now=$(saved_with 0.8.0)
before=$(saved_with 0.7.0)
python3 - "$now" "$before" <<'PY'
import json
import sys

now, before = map(json.loads, sys.argv[1:])
for version, seen in (("0.8.0", now), ("0.7.0", before)):
    for name, (_, given, read) in seen.items():
        print(f"safetensors {version}, {name}: expected {given}, seen {'the same' if read == given else read}")
same = {
    version: [shape and given == read for shape, given, read in seen.values()]
    for version, seen in (("now", now), ("before", before))
}
is_as_described = (
    same == {"now": [True, False, False, False], "before": [True] * 4}
    and all(shape for shape, _, _ in now.values())
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
