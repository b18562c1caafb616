#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Dynamo's frontend counts requests as migrated that it is forbidden to migrate.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.4.2, with Dynamo's own mocker as the engine.
# Input     A frontend with --router-mode round-robin, two workers, 20 streams. One worker is killed (SIGKILL) in
#           the middle of them. Once with --migration-limit 0 (the default: off), once with 3.
# Expected  With 0 no request is migrated: dynamo_frontend_model_migration_total stays at 0 or is absent. The
#           gauge dynamo_frontend_model_migration_limit says 0, and 3 in the other run.
# Seen      With 0 the requests of the dead worker fail, and the counter still counts them. The gauge says 0 in
#           both runs. From the metrics alone nobody can tell whether requests are migrated or lost.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source-path=SCRIPTDIR source=lib/two_mockers.sh
. "$(dirname "$0")/lib/two_mockers.sh"
prepare

off=$(kill_one_of_two_workers --router-mode round-robin --migration-limit 0)
echo "--migration-limit 0: $off"
on=$(kill_one_of_two_workers --router-mode round-robin --migration-limit 3)
echo "--migration-limit 3: $on"

python3 - "$off" "$on" <<'PY'
import json
import sys

off, on = map(json.loads, sys.argv[1:])
print(f"expected: 0 migrated with --migration-limit 0; seen: {off['failed']} requests failed, "
      f"{off['counted'] or 0:g} counted as migrated")
print(f"expected: the gauge says 0, then 3; seen: {off['limit']:g}, then {on['limit']:g}")
is_as_described = (
    off["failed"] > 0
    and (off["counted"] or 0) > 0
    and off["limit"] == on["limit"] == 0
    and on["failed"] == 0
    and (on["counted"] or 0) > 0
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
