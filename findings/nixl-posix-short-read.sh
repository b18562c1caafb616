#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# NIXL's POSIX backend reports a read as done of which the file held only a part, or nothing.
#
# Library   nixl 1.4.1 and nixl-cu13 1.4.1. Beside them, the same with 1.5.1.
# Input     One agent with the POSIX backend, a file of 100 bytes, 8,192 bytes of memory that hold 7. Two READ
#           transfers: 4,096 bytes from offset 0, and 4,096 bytes from offset 8,192, which is beyond the end.
# Expected  The transfers fail: the bytes that were asked for do not exist. A file that was cut short, for example a
#           tier of KV cache on a disk that became full, is noticed.
# Seen      With 1.4.1 both end in the state DONE. After the first, 100 bytes come from the file, and the other 3,996
#           are what the memory held before; after the second, all of them are. With 1.5.1 both raise
#           nixlBackendError.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/read.py" <<'PY'
import json
import sys
import time

import numpy as np
from nixl_cu13._api import nixl_agent, nixl_agent_config

ASKED, OLD = 4096, 7
path = sys.argv[1]
with open(path, "wb") as file:
    file.write(b"x" * 100)

agent = nixl_agent("agent", nixl_agent_config(backends=["POSIX"]))
memory = np.full(2 * ASKED, OLD, dtype=np.uint8)
agent.register_memory([(memory.ctypes.data, memory.size, 0, "")], "DRAM")


def read(offset):
    """The state at the end of the transfer, and how many of the bytes asked for are new."""
    memory[:] = OLD
    with open(path, "rb") as file:
        there = [(offset, ASKED, file.fileno())]
        registered = agent.register_memory([(*there[0], "")], "FILE")
        handle = None
        try:
            handle = agent.initialize_xfer(
                "READ",
                agent.get_xfer_descs([(memory.ctypes.data, ASKED, 0)], "DRAM"),
                agent.get_xfer_descs(there, "FILE"),
                "agent",
            )
            state = agent.transfer(handle)
            deadline = time.monotonic() + 20
            while state == "PROC" and time.monotonic() < deadline:
                time.sleep(0.01)
                state = agent.check_xfer_state(handle)
        except Exception as error:
            state = type(error).__name__
        finally:
            if handle is not None:
                agent.release_xfer_handle(handle)
            agent.deregister_memory(registered)
    return state, int((memory[:ASKED] != OLD).sum())


print(json.dumps([read(0), read(2 * ASKED)]))
PY

# reads_with VERSION: what became of both reads, as JSON
reads_with() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/pip" install --quiet --disable-pip-version-check --no-deps "nixl-cu13==$1" numpy==2.2.6 >&2
    NIXL_LOG_LEVEL=FATAL timeout 60 "$work/$1/bin/python" "$work/read.py" "$work/file-$1" 2>"$work/log-$1" | tail -n 1 ||
        {
            cat "$work/log-$1" >&2
            return 1
        }
}

now=$(reads_with 1.4.1)
later=$(reads_with 1.5.1)
python3 - "$now" "$later" <<'PY'
import json
import sys

now, later = map(json.loads, sys.argv[1:])
for version, reads in (("1.4.1", now), ("1.5.1", later)):
    for what, (state, new) in zip(("over the end of the file", "beyond the end"), reads):
        print(f"nixl {version}, 4,096 bytes {what}: expected an error; seen {state}, {new} bytes are new")
is_as_described = now == [["DONE", 100], ["DONE", 0]] and all(state == "nixlBackendError" for state, _ in later)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
