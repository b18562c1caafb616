#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# lm-eval gives a score to a model behind Dynamo's frontend although it got no log probability of any answer.
#
# Library   lm-eval 0.4.13, the newest on PyPI (2026-11), with its model local-completions; ai-dynamo and
#           ai-dynamo-runtime 1.6.1, with a worker that answers every prompt with the same token.
# Input     A task of multiple choice, ten questions with four choices, from a local file; in one run the first choice
#           is the right one, in the other the second. lm-eval asks /v1/completions for echo and logprobs.
# Expected  An error: the frontend accepts echo, and answers with the generated token alone, also if the worker has
#           vLLM 0.31.0. From vLLM's own server lm-eval gets the log probabilities of the prompt, in which the choices
#           are.
# Seen      lm-eval cuts the choice's tokens out of a list that does not have them, and adds up nothing: every choice
#           has the log likelihood 0, so the first one wins. The accuracy is 1.0 in one run and 0.0 in the other, exit
#           code 0, no warning. Any model gets the score of a guess that is always "A".
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source-path=SCRIPTDIR source=lib/scripted_worker.sh
. "$(dirname "$0")/lib/scripted_worker.sh"
prepare
echo "Installing lm-eval 0.4.13 ..."
python3 -m venv "$work/lm-eval"
"$work/venv/bin/uv" pip install --quiet --python "$work/lm-eval/bin/python" "lm-eval[api]==0.4.13" \
    "transformers==$TRANSFORMERS" jinja2==3.1.6

run_python <<'PY'
import json
import os
import subprocess
import sys

from scripted import WORK, Deployment, make_model

CHOICES = ("a", "b", "c", "d")
model, tokenizer = make_model()


def accuracy(right):
    """The accuracy that lm-eval reports if that choice is always the right one, and its exit code."""
    folder = WORK / f"task-{right}"
    folder.mkdir()
    (folder / "questions.jsonl").write_text("".join(
        json.dumps({"question": f"Question {number}:", "choices": CHOICES, "right": right}) + "\n"
        for number in range(10)
    ))
    (folder / "task.yaml").write_text(json.dumps({
        "task": "local_choice", "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}},
        "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }))
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(WORK / "hub"), "OPENAI_API_KEY": "none", "TMPDIR": str(WORK),
    }
    done = subprocess.run(
        [
            str(WORK / "lm-eval/bin/lm_eval"), "run", "--model", "local-completions", "--model_args",
            f"model=tiny,base_url={deployment.endpoint}/v1/completions,tokenizer={model},num_concurrent=1",
            "--tasks", "local_choice", "--include_path", str(folder), "--output_path", str(folder / "results"),
        ],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )
    print(done.stderr[-3000:], file=sys.stderr)
    reports = list((folder / "results").rglob("results_*.json"))
    results = json.loads(reports[0].read_text())["results"]["local_choice"] if reports else {}
    return results.get("acc,none"), done.returncode


with Deployment(model) as deployment:
    deployment.answers([[5]])
    seen = [accuracy(right) for right in (0, 1)]
    options = [request["output_options"] for request in deployment.requests()]
    status, answer = deployment.post("/v1/completions", prompt="Question", echo=True, logprobs=1, max_tokens=1)
(choice,) = answer["choices"]
print(f"with echo: expected the prompt and its log probabilities, or an error; seen {status}, "
      f"{len(choice['logprobs']['token_logprobs'])} log probability, the prompt is in the text: "
      f"{'Question' in choice['text']}")
for which, (score, code) in zip(("first", "second"), seen):
    print(f"the {which} choice is right: expected an error; seen accuracy {score}, exit code {code}")
is_as_described = (
    seen == [(1.0, 0), (0.0, 0)]
    and len(options) == 80
    and status == 200
    and len(choice["logprobs"]["token_logprobs"]) == 1
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
