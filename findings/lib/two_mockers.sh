# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by the findings about Dynamo: a frontend, two mocker workers (no model weights, no GPU, no etcd, no
# NATS), and 20 clients that stream while one of the workers is killed.

DYNAMO=1.4.2
CLIENTS=20

: "${work:?a temporary folder, of the script that sources this}"

# Installs Dynamo and makes a model that has a configuration and a tokenizer only, both in $work.
prepare() {
    echo "Installing ai-dynamo $DYNAMO ..."
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check \
        "ai-dynamo==$DYNAMO" "ai-dynamo-runtime==$DYNAMO" transformers==5.24.0 2>"$work/pip.log" ||
        {
            cat "$work/pip.log" >&2
            return 1
        }
    "$work/venv/bin/python" - <<'PY'
from importlib.metadata import version
from platform import python_version

print(f"Python {python_version()}, " + ", ".join(
    f"{name} {version(name)}" for name in ("ai-dynamo", "ai-dynamo-runtime", "transformers")
))
PY
    mkdir "$work/model"
    "$work/venv/bin/python" - "$work/model" 2>"$work/model.log" <<'PY' || { cat "$work/model.log" >&2; return 1; }
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

folder = Path(sys.argv[1])
words = ["<unk>", "<s>", "</s>"] + [f"w{number}" for number in range(2045)]
tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer.add_special_tokens(words[:3])
tokenizer.save(str(folder / "tokenizer.json"))
config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": len(words),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 8192,
}
tokens = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    # Asked for although no request here is a chat.
    "chat_template": "{% for message in messages %}{{ message['content'] }} {% endfor %}",
}
(folder / "config.json").write_text(json.dumps(config))
(folder / "tokenizer_config.json").write_text(json.dumps(tokens))
(folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
PY
}

# Kills one of two workers in the middle of all answers, and prints what became of them, as one line of JSON.
# Arguments: flags of the frontend.
kill_one_of_two_workers() {
    CLIENTS=$CLIENTS timeout --foreground --kill-after 20 120 \
        "$work/venv/bin/python" - "$work" "$@" <<'PY'
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

TOKENS, BEFORE_THE_KILL = 1000, 50
clients = int(os.environ["CLIENTS"])
work, frontend_flags = Path(sys.argv[1]), sys.argv[2:]
run = Path(tempfile.mkdtemp(dir=work))
processes = []


def free_port():
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(name, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DYN_", "ETCD_", "NATS_"))}
    environment |= {
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(run / "discovery"),
        "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq",
        "DYN_TCP_RPC_HOST": "127.0.0.1",
        "DYN_SYSTEM_HOST": "127.0.0.1",
        # The frontend gets the tokenizer from the worker instead of a hub.
        "DYN_SYSTEM_PORT": "-1" if name == "frontend" else "0",
        "DYN_SELF_HOST_METADATA": "1",
        "DYN_EVENT_PLANE_HOST": "127.0.0.1",
        "DYN_SKIP_SGLANG_LOG_FORMATTING": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(run),
    }
    with (run / f"{name}.log").open("w") as log:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", *arguments], env=environment, cwd=run, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )
        )
    return processes[-1]


def get(path):
    with urllib.request.urlopen(endpoint + path, timeout=10) as answer:
        return answer.read().decode()


def wait_for(what, condition, patience_s=40):
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"in {patience_s} s not seen: {what}")
        if any(process.poll() is not None for process in processes):
            sys.exit(f"a process has ended before: {what}")
        time.sleep(0.2)


def workers_ready():
    try:
        instances = json.loads(get("/health")).get("instances", ())
        return (
            sum(one["endpoint"] == "generate" for one in instances) == 2
            and len(json.loads(get("/v1/models"))["data"]) == 1
        )
    except OSError:
        return False


class Client(threading.Thread):
    """One streamed completion: the tokens, the finish reason and the error that it gets."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.number, self.chunks, self.tokens, self.finish_reason, self.error = number, 0, None, None, ""

    def run(self):
        body = {
            "model": "tiny", "prompt": f"w{self.number} w1 w2 w3", "max_tokens": TOKENS, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True},
        }
        request = urllib.request.Request(
            endpoint + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as lines:
                for line in lines:
                    data = line.decode().strip().removeprefix("data: ")
                    if data.startswith("{"):
                        self.take(json.loads(data))
                    elif data != "[DONE]":
                        self.error += data
        except urllib.error.HTTPError as error:
            self.error = f"{error.code} {error.read().decode()}"
        except OSError as error:
            self.error = repr(error)

    def take(self, part):
        if "choices" not in part:
            self.error += json.dumps(part)
        for choice in part.get("choices", ()):
            self.chunks += 1
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if part.get("usage"):
            self.tokens = part["usage"]["completion_tokens"]

    def is_whole(self):
        return (self.tokens, self.finish_reason, self.error) == (TOKENS, "length", "")


def sample(page, name):
    """The sum over all labels; None if there is no such metric."""
    values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, values)) if values else None


def stop(*_):
    sys.exit("stopped")


def main():
    start("frontend", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port), *frontend_flags)
    workers = [
        start(
            f"worker-{number}", "dynamo.mocker", "--model-path", str(work / "model"), "--model-name", "tiny",
            "--speedup-ratio", "1",
        )
        for number in range(2)
    ]
    wait_for("two workers at the frontend", workers_ready)
    all_clients = [Client(number) for number in range(clients)]
    for client in all_clients:
        client.start()
    wait_for("tokens at every client", lambda: all(client.chunks >= BEFORE_THE_KILL for client in all_clients))
    if not all(client.is_alive() for client in all_clients):
        sys.exit("an answer was over before the kill")
    workers[0].kill()
    deadline = time.monotonic() + 60
    for client in all_clients:
        client.join(max(0.0, deadline - time.monotonic()))
    page = get("/metrics")
    print(json.dumps({
        "whole": sum(client.is_whole() for client in all_clients),
        "failed": sum(bool(client.error) for client in all_clients),
        "counted": sample(page, "dynamo_frontend_model_migration_total"),
        "limit": sample(page, "dynamo_frontend_model_migration_limit"),
        "already_exists": (run / "frontend.log").read_text().count("failed to book scheduler state"),
        "error": next((client.error for client in all_clients if client.error), ""),
    }))


signal.signal(signal.SIGTERM, stop)
port = free_port()
endpoint = f"http://127.0.0.1:{port}"
finished = False
try:
    main()
    finished = True
finally:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    if not finished:
        for log in sorted(run.glob("*.log")):
            print(f"--- {log.name}", log.read_text()[-2000:], sep="\n", file=sys.stderr)
PY
}
