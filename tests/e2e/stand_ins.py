"""Stand-ins: units of our own for behaviour that no real engine can be made to show."""

from __future__ import annotations

import os
import subprocess
import sys

from dynamoctl.planner.plan import DeploymentPlan, Gate, Unit
from dynamoctl.state import DeploymentDir

from .conftest import Cli, free_port

FRONTEND = """
import http.server, json, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data)))
        self.end_headers(); self.wfile.write(data)
    def do_GET(self): self.reply({"ready": True})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({"usage": {"completion_tokens": 1}})
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
SERVE = FRONTEND
RUDE = {
    "ignores SIGTERM": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVE,
    "forks away into a session of its own, without its mark": """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
    os._exit(0)
os.wait()
"""
    + SERVE,
    "gives itself another name": """
import ctypes, sys
ctypes.CDLL(None).prctl(15, b"kworker/0:1", 0, 0, 0)
"""
    + SERVE,
    "closes its pipes and its log": """
import os
for number in range(3):
    os.close(number)
"""
    + SERVE,
    "leaves shared memory behind": """
import mmap, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = os.open(f"/dev/shm/psm_standin_{os.getpid()}", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096); held = mmap.mmap(file, 4096)
"""
    + SERVE,
}


def stand_in(cli: Cli, name: str, script: str) -> int:
    """Write a plan whose worker is a script of ours where `up` writes one; give back the worker's port."""
    http, own = free_port(), free_port()
    folder = DeploymentDir(name)
    folder.path = cli.home / "deployments" / name
    python = sys.executable
    units = (
        Unit("frontend", "frontend", (python, "-c", FRONTEND, str(http)), Gate("http", http, "/health"),
             ports={"http": http}),
        Unit("worker-0", "agg", (python, "-c", script, str(own)), Gate("http", own, "/health"),
             ports={"system": own}, after=("frontend",)),
    )  # fmt: skip
    plan = DeploymentPlan(
        name=name, mode="agg", device="cpu", engine="vllm", model="m", model_path="/m", host="127.0.0.1",
        port=http, home=str(folder.path), store=str(folder.store), timeout_s=20, drain_s=0, lmcache=None,
        lmcache_cpu_gib=0, units=units,
    )  # fmt: skip
    folder.store.mkdir(parents=True)
    folder.write_plan({"start_id": f"standin-{name}-{os.getpid()}", "plan": plan.as_json()})
    return own


def supervise(cli: Cli, name: str, **environ: str) -> int:
    """Start the supervisor as `up` does; give back its pid."""
    folder = cli.home / "deployments" / name
    with (folder / "supervisor.out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "dynamoctl.supervisor", str(folder)],
            env=cli.env(**environ), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    _STARTED.append(process)
    return process.pid


def reap() -> None:
    """Wait for the supervisors that were started here."""
    while _STARTED:
        _STARTED.pop().wait(timeout=60)


_STARTED: list[subprocess.Popen[bytes]] = []
