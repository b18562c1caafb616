#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Dynamo's frontend leaves out the <s> with which the tokenizer begins every text.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.6.1, with a worker that writes down what it is asked.
# Input     A model whose tokenizer.json has a post-processor that puts <s> before a text, as Llama, Mistral and Gemma
#           have it. POST /v1/completions with the prompt "hello", and with the token ids that AutoTokenizer makes of
#           "hello".
# Expected  The worker gets the same token ids for both: <s>, then the text. vLLM's own server does that
#           (add_special_tokens is on by default for completions).
# Seen      For the text, the worker gets no <s>, and usage counts one token less. There is no way to ask for it: the
#           frontend answers 400 to add_special_tokens. Base models and benchmarks of them are prompted like this, and
#           a deployment answers them otherwise through Dynamo than through vLLM.
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
from transformers import AutoTokenizer

model, _ = make_model()
expected = AutoTokenizer.from_pretrained(model).encode("hello")
with Deployment(model) as deployment:
    deployment.answers([[5]])
    seen = {}
    for name, prompt in (("text", "hello"), ("token ids", expected)):
        _, answer = deployment.post("/v1/completions", prompt=prompt, max_tokens=1)
        (request,) = deployment.requests()
        seen[name] = request["token_ids"], answer["usage"]["prompt_tokens"]
        print(f"prompt as {name}: expected {expected}, seen {seen[name][0]}, usage {seen[name][1]}")
    status, _ = deployment.post("/v1/completions", prompt="hello", max_tokens=1, add_special_tokens=True)
    print(f"with add_special_tokens: expected 200, seen {status}")
is_as_described = (
    expected[0] == 0
    and seen["text"] == (expected[1:], len(expected) - 1)
    and seen["token ids"] == (expected, len(expected))
    and status == 400
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
