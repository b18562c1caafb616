"""What a pause in NIXL's progress thread costs a transfer, and what it saves: NIXL alone, two processes.

    python benchmarks/nixl_progress_delay.py PLACE,PLACE OUT.json [DELAY_US...]

    python benchmarks/nixl_progress_delay.py 0,1 out.json 0 100 1000 10000
    python benchmarks/nixl_progress_delay.py 0,1 out.json 10000 10000,UCX_CUDA_IPC_CACHE=n

A PLACE is a GPU, or `cpu`: the first process offers memory there, the second reads it. A pause can have a
variable of UCX's after a comma. For each pause, twice and the second time in the other order: both agents'
CPU time while idle, as a share of one core; then the seconds of READS reads of each size, in pieces as long
as a KV block's share of one layer of an 8B model. The reader asks whether it is done as an engine does that
has nothing else to do (`busy`), and once a millisecond, as one that computes (`seldom`). Units: seconds,
bytes, 10**9 bytes a second.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dynamoctl.patches import nixl_progress_delay

SIZES = (31 * 10**6, 10**9)
PIECE = 64 * 1024
READS = 12
IDLE_S = 1.0
ASK_S = {"busy": 0.0, "seldom": 0.001}


class Peer:
    """One NIXL agent with memory of its own, in this process."""

    def __init__(self, name: str, place: str, delay_us: int) -> None:
        import torch
        from nixl._api import nixl_agent, nixl_agent_config, nixlBind

        nixl_progress_delay.add_delay(nixlBind, delay_us)
        self.device, self.kind = (0, "DRAM") if place == "cpu" else (int(place), "VRAM")
        where = "cpu" if place == "cpu" else f"cuda:{place}"
        self.memory = torch.ones(max(SIZES) // PIECE * PIECE + PIECE, dtype=torch.uint8, device=where)
        self.agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
        whole = [(self.memory.data_ptr(), self.memory.nbytes, self.device, "")]
        self.agent.register_memory(self.agent.get_reg_descs(whole, mem_type=self.kind))

    def pieces(self, start: int, size: int, device: int) -> Any:
        """Descriptors of `size` bytes from an address on."""
        parts = [(at, PIECE, device) for at in range(start, start + size, PIECE)]
        return self.agent.get_xfer_descs(parts, mem_type=self.kind)

    def read(self, other: dict[str, Any], size: int, ask_s: float) -> float:
        """Seconds from posting a read of the other's memory until this side hears that it is done."""
        here = self.pieces(self.memory.data_ptr(), size, self.device)
        there = self.pieces(other["address"], size, other["device"])
        handle = self.agent.initialize_xfer("READ", here, there, "offers", b"done")
        began = time.perf_counter()
        state = self.agent.transfer(handle)
        while state == "PROC":
            time.sleep(ask_s)
            state = self.agent.check_xfer_state(handle)
        took = time.perf_counter() - began
        self.agent.release_xfer_handle(handle)
        assert state == "DONE", state
        return took


def idle_share() -> float:
    """This process's CPU time while it does nothing, as a share of one core."""
    before = time.process_time()
    time.sleep(IDLE_S)
    return (time.process_time() - before) / IDLE_S


def peer(name: str, place: str, delay_us: int) -> None:
    """The child: says what it offers, reads what it is told to, ends with its input."""
    one = Peer(name, place, delay_us)
    meta = base64.b64encode(one.agent.get_agent_metadata()).decode()
    offer = {"meta": meta, "address": one.memory.data_ptr(), "device": one.device, "idle": idle_share()}
    print("OFFER", json.dumps(offer), flush=True)
    for line in sys.stdin:
        other = json.loads(line)
        one.agent.add_remote_agent(base64.b64decode(other["meta"]))
        one.read(other, max(SIZES), 0.0)  # opens the other's memory
        took = {
            how: {size: [one.read(other, size, ask_s) for _ in range(READS)] for size in SIZES}
            for how, ask_s in ASK_S.items()
        }
        print("READ", json.dumps(took), flush=True)


def answer(process: subprocess.Popen[str], word: str) -> Any:
    """What the child says after a word; NIXL prints to its output, too."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{word} "):
            return json.loads(line.removeprefix(word))
    raise SystemExit(f"the child ended with {process.wait()}")


def measured(places: list[str], pause: str) -> dict[str, Any]:
    """One pair of processes."""
    delay_us, _, setting = pause.partition(",")
    variable, _, value = setting.partition("=")
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--peer", name, place, delay_us],
            env=os.environ | ({variable: value} if setting else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, place in zip(("offers", "reads"), places, strict=True)
    ]
    offers, reads = children
    offer, idle = answer(offers, "OFFER"), answer(reads, "OFFER")["idle"]
    assert reads.stdin is not None
    reads.stdin.write(json.dumps(offer) + "\n")
    reads.stdin.flush()
    took = answer(reads, "READ")
    for child in reversed(children):
        assert child.stdin is not None
        child.stdin.close()
        child.wait(60)
    row: dict[str, Any] = {"delay_us": int(delay_us)}
    if setting:
        row["setting"] = setting
    row["idle_cores"] = [round(offer["idle"], 3), round(idle, 3)]
    for how, sizes in took.items():
        for size, seconds in sizes.items():
            middle = statistics.median(seconds)
            row[f"{how} {int(size) // 10**6} MB"] = {
                "median_s": round(middle, 5),
                "max_s": round(max(seconds), 5),
                "gb_per_s": round(int(size) / middle / 1e9, 2),
            }
    return row


def main() -> None:
    """Each pause, forwards and backwards."""
    places, out, *delays = sys.argv[1:]
    wanted = delays or ["0", "100", "1000", "10000"]
    rows = []
    for pause in (*wanted, *reversed(wanted)):
        rows.append(measured(places.split(","), pause))
        print(json.dumps(rows[-1]), flush=True)
        Path(out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--peer":
        peer(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
