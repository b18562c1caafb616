#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Loading a NIXL peer's new metadata adds memory that is new, but never takes away memory that is gone.
#
# Library   nixl-cu13 1.4.1 with its UCX backend; 1.5.1 does the same.
# Input     Two agents. The peer registers two regions, and the first agent loads its metadata. The peer deregisters
#           one region, and the agent loads the peer's new metadata with add_remote_agent. A third agent loads only
#           the new metadata. Each asks for a transfer from each region. None is posted.
# Expected  The agent that loaded the new metadata knows what the third one knows: for the region that is gone,
#           nixlNotFoundError. add_remote_agent is also the way to learn of memory that is new, and does that.
# Seen      The agent still gets a transfer handle for the region that is gone, without a word; the third agent gets
#           nixlNotFoundError. Only remove_remote_agent before add_remote_agent makes both alike. Until then, a peer
#           that frees memory and uses it for something else has readers that are told nothing.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/metadata.py" <<'PY'
import json

import numpy as np
from nixl_cu13._api import nixl_agent, nixl_agent_config

SIZE = 4096


def agent(name):
    return nixl_agent(name, nixl_agent_config(backends=["UCX"]))


def register(owner, memory):
    return owner.register_memory([(memory.ctypes.data, SIZE, 0, "")], "DRAM")


reader, peer, newcomer = agent("reader"), agent("peer"), agent("newcomer")
own, gone, kept = (np.zeros(SIZE, dtype=np.uint8) for _ in range(3))
for one in (reader, newcomer):
    register(one, own)


def asks(one, memory):
    """What the agent gets when it asks for a transfer from that memory of the peer."""
    try:
        handle = one.initialize_xfer(
            "READ",
            one.get_xfer_descs([(own.ctypes.data, SIZE, 0)], "DRAM"),
            one.get_xfer_descs([(memory.ctypes.data, SIZE, 0)], "DRAM"),
            "peer",
        )
    except Exception as error:
        return type(error).__name__
    one.release_xfer_handle(handle)
    return "a handle"


registered = register(peer, gone)
reader.add_remote_agent(peer.get_agent_metadata())
before = [asks(reader, gone), asks(reader, kept)]

register(peer, kept)
peer.deregister_memory(registered)
metadata = peer.get_agent_metadata()
reader.add_remote_agent(metadata)
newcomer.add_remote_agent(metadata)
after = [asks(reader, gone), asks(reader, kept)]
third = [asks(newcomer, gone), asks(newcomer, kept)]

reader.remove_remote_agent("peer")
reader.add_remote_agent(metadata)
again = [asks(reader, gone), asks(reader, kept)]
print(json.dumps([before, after, third, again]))
PY

# answers_with VERSION: what each agent got for both regions, as JSON
answers_with() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/pip" install --quiet --disable-pip-version-check --no-deps "nixl-cu13==$1" numpy==2.2.6 >&2
    NIXL_LOG_LEVEL=FATAL UCX_LOG_LEVEL=fatal UCX_TLS=tcp,self UCX_NET_DEVICES=lo \
        timeout 60 "$work/$1/bin/python" "$work/metadata.py" 2>"$work/log-$1" | tail -n 1 ||
        {
            cat "$work/log-$1" >&2
            return 1
        }
}

pinned=$(answers_with 1.4.1)
newest=$(answers_with 1.5.1)
python3 - "$pinned" "$newest" <<'PY'
import json
import sys

HANDLE, NOT_FOUND = "a handle", "nixlNotFoundError"
described = [[HANDLE, NOT_FOUND], [HANDLE, HANDLE], [NOT_FOUND, HANDLE], [NOT_FOUND, HANDLE]]
is_as_described = True
for version, answers in zip(("1.4.1", "1.5.1"), map(json.loads, sys.argv[1:])):
    before, after, third, again = answers
    print(f"nixl {version}, for the memory that is gone and the memory that is new:")
    print(f"    the agent, before: {before}")
    print(f"    the agent, new metadata loaded: expected {third}, seen {after}")
    print(f"    an agent that loaded only that: {third}")
    print(f"    the agent, removed and loaded: {again}")
    is_as_described &= answers == described
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
