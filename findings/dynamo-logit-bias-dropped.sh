#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Dynamo's frontend accepts logit_bias, and no worker ever sees it.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.6.1, with a worker that writes down what it is asked.
# Input     The same request without more, with logit_bias, and with frequency_penalty, to /v1/completions and to
#           /v1/chat/completions. A request with a parameter that does not exist.
# Expected  Either the worker's request holds the bias, as it holds the penalty, or the frontend refuses it with 400,
#           as it refuses parameters that it does not know.
# Seen      200, and the worker's request is the same as without it, byte for byte. The token that a client has ruled
#           out is generated as ever; a worker with vLLM 0.31.0 on a CPU does so, too.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source-path=SCRIPTDIR source=lib/scripted_worker.sh
. "$(dirname "$0")/lib/scripted_worker.sh"
prepare

run_python <<'PY'
import sys

from scripted import Deployment, make_model

MORE = ({}, {"logit_bias": {"42": -100}}, {"frequency_penalty": 0.5})
VOLATILE = ("request_id", "id", "timestamp", "request_timestamp_ms")
model, _ = make_model()
is_as_described = True
with Deployment(model) as deployment:
    deployment.answers([[5]])
    for path, prompt in (
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    ):
        statuses, requests = [], []
        for more in MORE:
            statuses.append(deployment.post(path, max_tokens=1, **prompt, **more)[0])
            (request,) = deployment.requests()
            requests.append({key: value for key, value in request.items() if key not in VOLATILE})
        plain, biased, penalized = requests
        refused, _ = deployment.post(path, max_tokens=1, **prompt, no_such_parameter=1)
        print(f"{path} with logit_bias: expected 400, or another request than without; "
              f"seen {statuses[1]}, {'the same' if biased == plain else 'another'} request")
        print(f"    with frequency_penalty: {statuses[2]}, "
              f"{'the same' if penalized == plain else 'another'} request; with a parameter unknown to it: {refused}")
        is_as_described &= statuses == [200] * 3 and biased == plain != penalized and refused == 400
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
