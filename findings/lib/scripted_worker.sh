# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by the findings about what Dynamo's frontend hands to a worker and makes of its tokens: a frontend, and a
# worker by Dynamo's public Python API that writes down each request and answers with tokens that the finding
# chooses. No model weights, no GPU, no etcd, no NATS.

DYNAMO=1.6.1
TRANSFORMERS=5.24.0

: "${work:?a temporary folder, of the script that sources this}"

# Installs Dynamo, and makes the module `scripted` that the findings import, both in $work.
prepare() {
    echo "Installing ai-dynamo $DYNAMO and transformers $TRANSFORMERS ..."
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check uv 2>"$work/pip.log"
    # Only Dynamo's simulators use it, and it is not whole on PyPI.
    echo "aisimulate; sys_platform == 'never'" >"$work/overrides.txt"
    "$work/venv/bin/uv" pip install --quiet --python "$work/venv/bin/python" --override "$work/overrides.txt" \
        "ai-dynamo==$DYNAMO" "ai-dynamo-runtime==$DYNAMO" "transformers==$TRANSFORMERS" jinja2==3.1.6 uvloop==0.22.1 \
        2>"$work/pip.log" ||
        {
            cat "$work/pip.log" >&2
            return 1
        }
    cat >"$work/worker.py" <<'PY'
"""A worker: writes down each request, and answers with the tokens in script.json, one list for each part."""

import json
import sys
from pathlib import Path

import uvloop
from dynamo.llm import ModelInput, ModelRuntimeConfig, ModelType, WorkerType, register_model
from dynamo.runtime import dynamo_worker

run, model, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])


@dynamo_worker()
async def serve(runtime):
    endpoint = runtime.endpoint("dynamo.backend.generate")
    config = ModelRuntimeConfig()
    for name, value in options.items():
        setattr(config, name, value)
    await register_model(
        ModelInput.Tokens, ModelType.Chat | ModelType.Completions, endpoint, model, "tiny",
        worker_type=WorkerType.Aggregated, runtime_config=config, kv_cache_block_size=16,
    )

    async def generate(request, context):
        with (run / "requests.jsonl").open("a") as file:
            file.write(json.dumps(request, default=str) + "\n")
        parts = json.loads((run / "script.json").read_text())
        prompt, answer = len(request["token_ids"]), sum(map(len, parts))
        for number, tokens in enumerate(parts, 1):
            part = {"token_ids": tokens}
            if (request.get("output_options") or {}).get("logprobs") is not None:
                part["log_probs"] = [-1.0] * len(tokens)
                part["top_logprobs"] = [
                    [{"rank": 1, "token_id": token, "token": None, "logprob": -1.0}] for token in tokens
                ]
            if number == len(parts):
                part["finish_reason"] = "stop"
                part["completion_usage"] = {
                    "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
                }
            yield part

    await endpoint.serve_endpoint(generate)


uvloop.run(serve())
PY
    cat >"$work/scripted.py" <<'PY'
"""A model that is only a tokenizer, and a frontend with the worker beside it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

WORK = Path(__file__).parent
PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
print(f"Python {python_version()}, " + ", ".join(
    f"{name} {version(name)}" for name in ("ai-dynamo", "ai-dynamo-runtime", "transformers")
))


def make_model(template=PLAIN, added=()):
    """The folder and the tokenizer: a token for each byte, and <s> before a text, as Llama has it."""
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=WORK))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": 0, "eos_token_id": 1, "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
        "max_position_embeddings": 8192,
    }))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "chat_template": template,
    }))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}))
    return folder, tokenizer


class Deployment:
    """A frontend and the worker, on the loopback. Leaving the `with` ends both."""

    def __init__(self, model, **worker_options):
        self.run = Path(tempfile.mkdtemp(prefix="run-", dir=WORK))
        self.processes = []
        with closing(socket.socket()) as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.commands = {
            "frontend": ["-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port)],
            "worker": [str(WORK / "worker.py"), str(self.run), str(model), json.dumps(worker_options)],
        }

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        try:
            for name, arguments in self.commands.items():
                self._start(name, arguments)
            self._wait_for_the_model()
        except BaseException:
            self.__exit__()
            for log in sorted(self.run.glob("*.log")):
                print(f"--- {log.name}", log.read_text()[-2000:], sep="\n", file=sys.stderr)
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def _start(self, name, arguments):
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("DYN_", "ETCD_", "NATS_"))
        }
        environment |= {
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(self.run / "discovery"),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_EVENT_PLANE_HOST": "127.0.0.1",
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            "DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1",
            "DYN_SYSTEM_HOST": "127.0.0.1",
            # The frontend gets the tokenizer from the worker instead of a hub.
            "DYN_SYSTEM_PORT": "-1" if name == "frontend" else "0",
            "DYN_SELF_HOST_METADATA": "1",
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.run),
        }
        with (self.run / f"{name}.log").open("w") as log:
            self.processes.append(subprocess.Popen(
                [sys.executable, *arguments], env=environment, cwd=self.run, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            ))

    def _wait_for_the_model(self, patience_s=60):
        deadline = time.monotonic() + patience_s
        while True:
            try:
                if json.loads(self.get("/v1/models"))["data"]:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                sys.exit("the frontend does not list the model")
            time.sleep(0.2)

    def answers(self, parts):
        """Sets what the worker answers from now on: a list of token ids for each part."""
        (self.run / "script.json").write_text(json.dumps(parts))

    def get(self, path):
        with urllib.request.urlopen(self.endpoint + path, timeout=10) as answer:
            return answer.read().decode()

    def post(self, path, **body):
        """The status and the answer, of the model `tiny`."""
        request = urllib.request.Request(
            self.endpoint + path, json.dumps({"model": "tiny", **body}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def requests(self):
        """What the worker was asked since the last call."""
        log = self.run / "requests.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]
PY
}

# Runs the Python program on stdin, with the module `scripted`.
run_python() {
    cat >"$work/finding.py"
    timeout --foreground --kill-after 20 150 "$work/venv/bin/python" "$work/finding.py" 2>"$work/finding.log" ||
        {
            code=$?
            tail -n 40 "$work/finding.log" >&2
            return "$code"
        }
}
