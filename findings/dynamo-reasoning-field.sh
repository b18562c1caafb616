#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Dynamo's frontend writes <think> into the content of earlier answers, although the chat template has its own form.
#
# Library   ai-dynamo and ai-dynamo-runtime 1.6.1, with a worker that writes down what it is asked; transformers
#           5.24.0 for what the templates render.
# Input     A chat whose earlier answer comes back with its reasoning, in the field `reasoning`, which is vLLM's name
#           for it. Three templates: one shows message.reasoning between [THINK] and [/THINK], one shows
#           message.reasoning_content likewise, and one shows no reasoning.
# Expected  What the template says, as with vLLM's own server, which gives the template both names: reasoning in
#           its own form in the first two, none in the third.
# Seen      Right only with the name reasoning_content. For the other two, the frontend puts <think>, the reasoning
#           and </think> before the content, although no template has such a tag: the model sees tags that it may not
#           know, and reasoning that its template leaves out, which counts as tokens of the prompt.
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

SHOWN = "{%% if m.%(name)s %%}[THINK]{{ m.%(name)s }}[/THINK]{%% endif %%}"
TEMPLATE = "{%% for m in messages %%}<{{ m.role }}>%s{{ m.content }}{%% endfor %%}"
ANSWER = {"role": "assistant", "content": "four", "reasoning": "two and two"}
MESSAGES = [{"role": "user", "content": "2+2?"}, ANSWER, {"role": "user", "content": "sure?"}]

seen, expected = {}, {}
for name in ("reasoning", "reasoning_content", "nothing"):
    model, tokenizer = make_model(TEMPLATE % (SHOWN % {"name": name} if name != "nothing" else ""))
    both = [{**message, "reasoning_content": message.get("reasoning")} for message in MESSAGES]
    expected[name] = AutoTokenizer.from_pretrained(model).apply_chat_template(both, tokenize=False)
    with Deployment(model) as deployment:
        deployment.answers([[5]])
        deployment.post("/v1/chat/completions", messages=MESSAGES, max_tokens=1)
        (request,) = deployment.requests()
    seen[name] = tokenizer.decode(request["token_ids"])
    print(f"a template that shows {name}: expected {expected[name]}\n    seen {seen[name]}")
is_as_described = seen["reasoning_content"] == expected["reasoning_content"] and all(
    seen[name] == "<user>2+2?<assistant><think>two and two</think>four<user>sure?" != expected[name]
    for name in ("reasoning", "nothing")
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
