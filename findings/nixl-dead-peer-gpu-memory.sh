#!/usr/bin/env bash
# Who keeps the GPU memory of a dead process? A NIXL peer that has read from it, until it ends.
#
# Versions: nixl and nixl-cu13 1.3.2 (UCX 1.21) and 1.4.1, torch 2.11.0, driver 580.159.04; one or two NVIDIA GPUs.
# Set up: one process offers 4 GiB of a GPU, a second one reads 1 GiB of it; the first gets SIGKILL.
# Expected: the driver frees the memory of a dead process, at the latest when its peer calls remove_remote_agent.
# Seen: NVML shows the 4 GiB in use, by no process, until the second process ends. With 1.3.2 neither
#   remove_remote_agent nor the end of the agent frees it, whatever UCX_CUDA_IPC_CACHE says; with 1.4.1
#   remove_remote_agent does if UCX_CUDA_IPC_CACHE=n, and not by default.
#
# Exits with 0 if this is so, with 1 if it has changed, with 2 if there is no GPU.
set -euo pipefail

nvidia-smi > /dev/null 2>&1 || { echo "no NVIDIA GPU here" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/peers.py" <<'PYTHON'
"""One process offers GPU memory, another reads it, the first is killed: what stays in use, step by step."""

import base64
import json
import os
import subprocess
import sys
import time

MIB = 1024 * 1024
SIZE = 4096 * MIB
READ = 1024 * MIB


def peer(name, gpu):
    import torch
    from nixl._api import nixl_agent, nixl_agent_config

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    torch.cuda.set_device(gpu)
    memory = torch.zeros(SIZE, dtype=torch.uint8, device=f"cuda:{gpu}")
    torch.cuda.synchronize()
    agent = nixl_agent(name, nixl_agent_config(backends=[]))
    agent.create_backend("UCX", {})
    whole = [(memory.data_ptr(), SIZE, gpu, "")]
    agent.register_memory(agent.get_reg_descs(whole, mem_type="VRAM"), backends=["UCX"])

    def say(**body):
        out.write(json.dumps(body) + "\n")
        out.flush()

    say(meta=base64.b64encode(agent.get_agent_metadata()).decode(), address=memory.data_ptr())
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "read":
            agent.add_remote_agent(base64.b64decode(asked["meta"]))
            here = agent.get_xfer_descs([(memory.data_ptr(), READ, gpu)], mem_type="VRAM")
            there = agent.get_xfer_descs([(asked["address"], READ, asked["gpu"])], mem_type="VRAM")
            transfer = agent.initialize_xfer("READ", here, there, "offers", b"done")
            state = agent.transfer(transfer)
            while state == "PROC":
                state = agent.check_xfer_state(transfer)
            agent.release_xfer_handle(transfer)
            say(state=state)
        elif asked["do"] == "remove":
            agent.remove_remote_agent("offers")
            say(state="DONE")


class Peer:
    def __init__(self, name, gpu, environ):
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, str(gpu)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.hello = self.answer()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, **body):
        self.process.stdin.write(json.dumps(body) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def kill(self):
        self.process.kill()
        self.process.wait()


def in_use(gpu):
    import pynvml

    return pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(gpu)).used // MIB


def is_held(gpu, before):
    """Whether the offered memory is still in use some seconds later."""
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        if in_use(gpu) < before - SIZE // MIB + 200:
            return False
        time.sleep(0.2)
    return True


def held(environ):
    """After the kill, after remove_remote_agent, after the reader's end: whether it is held."""
    import pynvml

    pynvml.nvmlInit()
    offering = 1 if pynvml.nvmlDeviceGetCount() > 1 else 0
    offers, reads = Peer("offers", offering, environ), Peer("reads", 0, environ)
    said = reads.ask(do="read", gpu=offering, **offers.hello)
    assert said["state"] == "DONE", said
    before = in_use(offering)
    offers.kill()
    found = [is_held(offering, before)]
    reads.ask(do="remove")
    found.append(is_held(offering, before))
    reads.kill()
    found.append(is_held(offering, before))
    return found


if __name__ == "__main__":
    if sys.argv[1] != "held":
        peer(sys.argv[1], int(sys.argv[2]))
    else:
        shown = held({"UCX_NET_DEVICES": "lo", "UCX_CUDA_IPC_CACHE": sys.argv[2]})
        print(" ".join("held" if one else "free" for one in shown))
PYTHON

changed=0
check() { # VERSION UCX_CUDA_IPC_CACHE EXPECTED
    local seen
    seen=$("$work/$1/bin/python" "$work/peers.py" held "$2" 2> "$work/log" | tail -n 1) || { cat "$work/log" >&2; exit 1; }
    echo "nixl $1, UCX_CUDA_IPC_CACHE=$2: after the kill, remove_remote_agent, the peer's end: $seen"
    [ "$seen" = "$3" ] || { echo "  changed: it was $3" >&2; changed=1; }
}
for version in 1.3.2 1.4.1; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/python" -m pip install -q --disable-pip-version-check \
        "nixl==$version" "nixl-cu13==$version" torch==2.11.0 nvidia-ml-py==13.590.48 numpy
done
check 1.3.2 y "held held free"
check 1.3.2 n "held held free"
check 1.4.1 y "held held free"
check 1.4.1 n "held free free"
exit "$changed"
