#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# With parsers for reasoning and tool calls, Dynamo's frontend loses the end of an answer if it comes all at once.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.6.1, with the parsers qwen3 (reasoning) and hermes (tool calls), as
#           Qwen3 needs them, and a worker that answers with the same tokens twice: one token in each part, and all of
#           them in one part, as an engine does that batches its output or decodes speculatively.
# Input     A chat with a tool. The answers: a text that ends with "<t", and two calls of the tool with a sentence
#           after each.
# Expected  The same tokens give the same message, and all of the text is in it.
# Seen      Token by token, the whole text. In one part, the first answer loses its "<t" and the second its last
#           sentence; finish_reason and usage are the same, and nothing is logged.
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

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
model, tokenizer = make_model(added=("<tool_call>", "</tool_call>"))
seen = {}
with Deployment(model, tool_call_parser="hermes", reasoning_parser="qwen3") as deployment:
    for text in ("if a <t", f"First. {CALL} Then. {CALL} Last."):
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        for how, parts in (("token by token", [[token] for token in tokens]), ("in one part", [tokens])):
            deployment.answers(parts)
            _, answer = deployment.post(
                "/v1/chat/completions", messages=[{"role": "user", "content": "look"}], tools=[TOOL], max_tokens=200
            )
            choice = answer["choices"][0]
            seen[text, how] = choice["message"]["content"], choice["finish_reason"], answer["usage"]["total_tokens"]
            print(f"{text!r} {how}: {seen[text, how]}")
first, second = (
    [seen[text, how] for how in ("token by token", "in one part")] for text in dict.fromkeys(text for text, _ in seen)
)
is_as_described = (
    first[0][1:] == first[1][1:]
    and second[0][1:] == second[1][1:]
    and (first[0][0], first[1][0]) == ("if a <t", "if a ")
    and "Last." in second[0][0]
    and "Last." not in second[1][0]
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
