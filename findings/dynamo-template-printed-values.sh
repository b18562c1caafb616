#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A chat template that prints an object gives the model other text through Dynamo's frontend, neither Python nor JSON.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.6.1, with a worker that writes down what it is asked; transformers
#           5.24.0 for the text that the template's author sees, and that vLLM's own server sends.
# Input     A chat with a tool and with an earlier call of it, and a template that prints the tool's parameters and
#           the call's arguments as they are, without the filter tojson.
# Expected  The text of transformers, {'a': True, 'b': None}, or JSON, {"a": true, "b": null}.
# Seen      {"a": True, "b": None}: quotes as in JSON, and True and None as in Python. A model that was trained on
#           one text is asked with another; values alone and those with tojson are the same in both.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source-path=SCRIPTDIR source=lib/scripted_worker.sh
. "$(dirname "$0")/lib/scripted_worker.sh"
prepare

run_python <<'PY'
import json
import sys

from scripted import Deployment, make_model
from transformers import AutoTokenizer

TEMPLATE = (
    "{{ tools[0].function.parameters }}\n{{ messages[1].tool_calls[0].function.arguments }}\n"
    "{{ true }} {{ none }} {{ messages[1].tool_calls[0].function.arguments | tojson }}"
)
arguments = {"a": True, "b": None}


def messages(written):
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": written}}
    return [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]


tools = [{
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"a": {"default": True}}}},
}]
model, tokenizer = make_model(TEMPLATE)
# The string of the protocol becomes an object for the template, in vLLM's server and in Dynamo's frontend.
expected = AutoTokenizer.from_pretrained(model).apply_chat_template(messages(arguments), tools=tools, tokenize=False)
with Deployment(model) as deployment:
    deployment.answers([[5]])
    deployment.post("/v1/chat/completions", messages=messages(json.dumps(arguments)), tools=tools, max_tokens=1)
    (request,) = deployment.requests()
seen = tokenizer.decode(request["token_ids"])
for one, other in zip(expected.split("\n"), seen.split("\n")):
    print(f"expected {one}\n    seen {other}")
is_as_described = expected.split("\n") == [
    "{'type': 'object', 'properties': {'a': {'default': True}}}",
    "{'a': True, 'b': None}",
    'True None {"a": true, "b": null}',
] and seen.split("\n") == [
    '{"type": "object", "properties": {"a": {"default": True}}}',
    '{"a": True, "b": None}',
    'True None {"a": true, "b": null}',
]
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
