#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Of a request with several prompts, two of Dynamo's token metrics count only one prompt.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.6.1, with a worker that answers each prompt with ten tokens.
# Input     One POST /v1/completions with a list of three prompts of 5, 50 and 500 tokens.
# Expected  The metrics agree with the answer's usage, which is 555 tokens in and 30 out: that much more in the sums
#           of dynamo_frontend_input_sequence_tokens and dynamo_frontend_output_sequence_tokens, and in
#           dynamo_frontend_output_tokens_total.
# Seen      dynamo_frontend_output_tokens_total counts 30. Both histograms observe one prompt of the three, with one
#           answer of 10 tokens. Means and rates from them are wrong for clients that send batches, as
#           evaluation harnesses do.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source-path=SCRIPTDIR source=lib/scripted_worker.sh
. "$(dirname "$0")/lib/scripted_worker.sh"
prepare

run_python <<'PY'
import re
import sys
import time

from scripted import Deployment, make_model

PROMPTS, ANSWER = (5, 50, 500), 10
NAMES = ("input_sequence_tokens_sum", "output_sequence_tokens_sum", "output_tokens_total")
model, _ = make_model()


def metrics():
    page = deployment.get("/metrics")
    return [
        sum(map(float, re.findall(rf"^dynamo_frontend_{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)))
        for name in NAMES
    ]


with Deployment(model) as deployment:
    deployment.answers([[5]] * ANSWER)
    before = metrics()
    _, answer = deployment.post("/v1/completions", prompt=["a" * length for length in PROMPTS], max_tokens=ANSWER)
    time.sleep(2)
    counted = [after - earlier for after, earlier in zip(metrics(), before)]
usage = answer["usage"]
expected = [usage["prompt_tokens"], usage["completion_tokens"], usage["completion_tokens"]]
for name, one, other in zip(NAMES, expected, counted):
    print(f"dynamo_frontend_{name}: expected {one} more, seen {other:g}")
is_as_described = (
    expected[1] == 3 * ANSWER
    and expected[0] >= sum(PROMPTS)
    and 0 < counted[0] < expected[0]
    and counted[1:] == [ANSWER, 3 * ANSWER]
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
