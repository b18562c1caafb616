"""A worker that dies on a GPU whose memory is not free: the real supervisor, a stand-in for NVML and the
engines.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.planner.plan import DeploymentPlan, Gate, Unit
from dynamoctl.state import DeploymentDir

from .conftest import Cli, first_on_path, free_port, wait_for
from .stand_ins import FRONTEND, reap, supervise

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(300)]

NVML = Path(__file__).parent / "stand_in_nvml"
# Each look at its metrics shows one more transfer.
WORKER = FRONTEND.replace(
    "    def do_GET(self): self.reply",
    """    count = 0
    def do_GET(self):
        if self.path != "/metrics":
            return self.reply({"ready": True})
        Answer.count += 1
        data = f"vllm:nixl_xfer_time_seconds_count {Answer.count}\\n".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data)))
        self.end_headers(); self.wfile.write(data)
    def unused(self): self.reply""",
)


@dataclass
class Gpus:
    """A disaggregated deployment of stand-ins, decode on GPU 0 and prefill on GPU 1, with a cache server."""

    cli: Cli
    name: str
    nvml: Path

    def hold(self, gpu: int, **how: Any) -> None:
        """See `stand_in_nvml`."""
        whole = self.nvml.with_suffix(".new")
        whole.write_text(json.dumps({str(gpu): {"mib": 90 * 1024, **how}}))
        whole.replace(self.nvml)

    def free(self) -> None:
        self.nvml.unlink()

    def status(self) -> dict[str, Any]:
        return self.cli.status(self.name)

    def units(self) -> dict[str, dict[str, Any]]:
        return {unit["name"]: unit for unit in self.status()["units"]}

    def is_ready(self) -> bool:
        return bool(self.status()["state"] == "ready")

    def log(self) -> str:
        return (self.cli.home / "deployments" / self.name / "supervisor.out").read_text()


@pytest.fixture
def up(cli: Cli, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Gpus]:
    name = f"gpus-{abs(hash(request.node.name)) % 10000}"
    python, http = sys.executable, free_port()
    folder = DeploymentDir(name)
    folder.path = cli.home / "deployments" / name
    cache, decode, prefill = free_port(), free_port(), free_port()
    units = (
        Unit("frontend", "frontend", (python, "-c", FRONTEND, str(http)), Gate("http", http, "/health"),
             ports={"http": http}),
        Unit("lmcache", "cache", (python, "-c", FRONTEND, str(cache)), Gate("http", cache, "/health"),
             ports={"http": cache}),
        Unit("decode-0", "decode", (python, "-c", WORKER, str(decode)), Gate("http", decode, "/health"),
             gpus=(0,), ports={"system": decode}, after=("frontend",)),
        Unit("prefill-0", "prefill", (python, "-c", WORKER, str(prefill)), Gate("http", prefill, "/health"),
             gpus=(1,), ports={"system": prefill}, after=("frontend", "decode-0")),
    )  # fmt: skip
    plan = DeploymentPlan(
        name=name, mode="disagg", device="cuda", engine="vllm", model="m", model_path="/m", host="127.0.0.1",
        port=http, home=str(folder.path), store=str(folder.store), timeout_s=60, drain_s=0, lmcache=None,
        lmcache_cpu_gib=0, units=units,
    )  # fmt: skip
    folder.store.mkdir(parents=True)
    folder.write_plan({"start_id": f"standin-{name}-{os.getpid()}", "plan": plan.as_json()})
    one = Gpus(cli, name, tmp_path / "nvml.json")
    supervise(cli, name, PYTHONPATH=first_on_path(NVML), STAND_IN_NVML=str(one.nvml))
    wait_for(one.is_ready, 60)
    yield one
    down = cli("down", "-n", name)
    reap()
    assert down.code == 0, down.err


@pytest.mark.fault(
    "a GPU worker dies, and a NIXL peer keeps its memory mapped",
    "restarts the peer as well, which frees it; one recovery",
)
def test_memory_that_a_peer_has_mapped(up: Gpus) -> None:
    before = up.units()
    up.hold(1, holder=before["decode-0"]["pid"])
    os.kill(before["prefill-0"]["pid"], signal.SIGKILL)
    phase = wait_for(lambda: (p := up.units()["prefill-0"]["phase"]).startswith("waiting for") and p, 30)
    assert "81.0 GiB of GPU 1 (10.0 GiB free, 91.0 GiB wanted), held by no process" in phase
    wait_for(lambda: up.is_ready() and up.units()["prefill-0"]["restarts"] == 1, 60)
    after = up.units()
    assert {name: unit["restarts"] for name, unit in after.items()} == {
        "frontend": 0, "lmcache": 0, "decode-0": 1, "prefill-0": 1,
    }  # fmt: skip
    assert "decode-0 is restarting, to free the GPU memory of prefill-0's last process" in up.log()


@pytest.mark.fault(
    "a GPU worker dies, and LMCache's server keeps its memory mapped",
    "restarts the server, which frees it; requests go on without a cache",
)
def test_memory_that_the_cache_server_has_mapped(up: Gpus) -> None:
    """As LMCache does with a worker whose number says nothing (patch `lmcache-instance`)."""
    before = up.units()
    server = before["lmcache"]["pid"]
    up.hold(1, holder=server, by=server)
    os.kill(before["prefill-0"]["pid"], signal.SIGKILL)
    wait_for(lambda: f"held by process {server} (" in up.units()["prefill-0"]["phase"], 30)
    wait_for(lambda: up.is_ready() and up.units()["prefill-0"]["restarts"] == 1, 60)
    assert {name: unit["restarts"] for name, unit in up.units().items()} == {
        "frontend": 0, "lmcache": 1, "decode-0": 0, "prefill-0": 1,
    }  # fmt: skip
    assert "lmcache is restarting, to free the GPU memory of prefill-0's last process" in up.log()


@pytest.mark.fault("a GPU worker dies, and its memory is free 14 s later", "waits for it; restarts it")
def test_memory_that_is_free_a_moment_later(up: Gpus) -> None:
    dying = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(14)"])
    before = up.units()
    up.hold(0, holder=dying.pid)
    os.kill(before["decode-0"]["pid"], signal.SIGKILL)
    wait_for(lambda: up.units()["decode-0"]["phase"].startswith("waiting for"), 30)
    dying.wait()
    wait_for(lambda: up.is_ready() and up.units()["decode-0"]["restarts"] == 1, 60)
    assert "decode-0 has its GPU memory after" in up.log()


@pytest.mark.fault(
    "a GPU worker dies, and another program takes its memory", "waits, and says which process has it"
)
def test_memory_that_another_program_has_taken(up: Gpus) -> None:
    before = up.units()
    up.hold(1, by=os.getpid())
    os.kill(before["prefill-0"]["pid"], signal.SIGKILL)
    wait_for(lambda: f"held by process {os.getpid()} (" in up.units()["prefill-0"]["phase"], 30)
    time.sleep(10)  # a peer would have been restarted by now
    assert up.units()["decode-0"]["pid"] == before["decode-0"]["pid"]
    assert up.status()["state"] == "degraded"
    up.free()
    wait_for(lambda: up.is_ready() and up.units()["prefill-0"]["restarts"] == 1, 60)
    assert up.units()["decode-0"]["restarts"] == 0
