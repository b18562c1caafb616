#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Dynamo's KV router fails requests of a dead worker that it should migrate.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.4.2, with Dynamo's own mocker as the engine.
# Input     A frontend with --migration-limit 3, two workers, 20 streams. One worker is killed (SIGKILL) in the
#           middle of them. Once with --router-mode round-robin, then with --router-mode kv.
# Expected  In both router modes the requests of the dead worker go on at the other one: 20 whole answers.
# Seen      With round-robin 20 are whole. With kv some or all requests of the dead worker fail, although a worker is
#           there and the limit allows the move: the router still has the request booked on the dead worker and
#           refuses it ("failed to book scheduler state: Request ... already exists"). It is a race, so the number
#           of failures varies; up to three tries are made until one is seen. Upstream's change:
#           github.com/ai-dynamo/dynamo/pull/11647.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source-path=SCRIPTDIR source=lib/two_mockers.sh
. "$(dirname "$0")/lib/two_mockers.sh"
prepare

round_robin=$(kill_one_of_two_workers --router-mode round-robin --migration-limit 3)
echo "--router-mode round-robin: $round_robin"
for try in 1 2 3; do
    kv=$(kill_one_of_two_workers --router-mode kv --migration-limit 3)
    echo "--router-mode kv, try $try: $kv"
    case $kv in *'"failed": 0,'*) ;; *) break ;; esac
done

python3 - "$CLIENTS" "$round_robin" "$kv" <<'PY'
import json
import sys

clients, round_robin, kv = map(json.loads, sys.argv[1:])
print(f"expected: {clients} whole answers in both; "
      f"seen: {round_robin['whole']} with round-robin, {kv['whole']} with kv, where {kv['failed']} failed")
is_as_described = (
    round_robin["whole"] == clients
    and kv["failed"] > 0
    and kv["already_exists"] > 0
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
