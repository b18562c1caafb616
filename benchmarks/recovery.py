"""Kill units of a deployment under a steady load, and see how each comes back.

    python benchmarks/recovery.py OUT.json STEP... -- UP'S WORDS [-- VLLM'S WORDS]

    python benchmarks/recovery.py out.json prefill-0 decode-0 prefill-0/engine \\
        -- disagg --gpus 0,1 --model DIR -- --enforce-eager
    python benchmarks/recovery.py out.json prefill-0 prefill=1 prefill=2@1 \\
        -- disagg --gpus 0,1,1 --prefill 2 --model DIR -- --enforce-eager

A STEP is a unit, or a unit and `/engine` for its EngineCore: it gets SIGKILL when the deployment has been
ready for SETTLE_S. Or it is ROLE=N, which scales a role, on the GPUs after an `@`. Besides, one completion
is asked for each second, and each second it is noted what is in use on every GPU. `dynamoctl down` ends it,
also on SIGTERM. Written are, for each kill, the seconds until

- `serves_s`: a completion that was asked for after the kill comes back,
- `ready_s`: `status` says ready, with all units,

how many requests failed and succeeded until then, how often each unit was started again, and the memory in
use on each GPU (MiB) from the second of the kill on. For each scaling: the seconds it took, the requests in
that time and SETTLE_S more, and the longest of them.

Deployments of several names can share a DYNAMOCTL_HOME and be killed at the same time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from command import run, split
from dynamoctl.host import gpus

SETTLE_S = 3.0
STANDBY_S = 90.0
PATIENCE_S = 300.0
REQUEST_S = 60.0
PROMPT = "The sea is wide and the sky is blue, said the sailor to his cat. " * 12


@dataclass(frozen=True)
class Request:
    """One completion: when it was asked for and when it ended, seconds, and whether it came back."""

    asked: float
    ended: float
    ok: bool


class Load:
    """A completion each second, until it is stopped; and what is in use on each GPU."""

    def __init__(self, endpoint: str, model: str) -> None:
        self._url, self._model = f"{endpoint}/v1/completions", model
        self._stop = threading.Event()
        self.requests: list[Request] = []
        self.memory: list[tuple[float, dict[int, int]]] = []
        self._pool = ThreadPoolExecutor(128)
        self._threads = [threading.Thread(target=one) for one in (self._ask, self._look)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        number = 0
        while not self._stop.wait(1.0):
            number += 1
            self._pool.submit(self._one, number)

    def _one(self, number: int) -> None:
        body = {"model": self._model, "prompt": f"{number}. {PROMPT}", "max_tokens": 8, "temperature": 0}
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        asked, ok = time.monotonic(), False
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:
                ok = json.load(answer)["usage"]["completion_tokens"] > 0
        except (OSError, ValueError, KeyError):
            pass
        self.requests.append(Request(asked, time.monotonic(), ok))

    def _look(self) -> None:
        while not self._stop.wait(1.0):
            self.memory.append((time.monotonic(), gpus.memory_used()))

    def served_since(self, moment: float) -> float | None:
        """When the first completion came back that was asked for after a moment; None where none has."""
        ended = [one.ended for one in self.requests if one.ok and one.asked > moment]
        return min(ended, default=None)

    def memory_between(self, began: float, ended: float) -> list[dict[str, float]]:
        """MiB in use on each GPU, each second from shortly before a moment until another."""
        return [
            {"s": round(moment - began, 1), **{str(gpu): mib for gpu, mib in used.items()}}
            for moment, used in self.memory
            if began - 1.5 < moment < ended
        ]

    def stop(self) -> None:
        """No more requests; those in flight are waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()


def victim(status: dict[str, Any], kill: str) -> int:
    """The process that is to be killed."""
    name, _, part = kill.partition("/")
    pid: int = next(unit["pid"] for unit in status["units"] if unit["name"] == name)
    if not part:
        return pid
    children = psutil.Process(pid).children(recursive=True)
    return next(one.pid for one in children if "EngineCore" in " ".join([one.name(), *one.cmdline()]))


def until_standbys_are_ready(environ: dict[str, str], name: str) -> None:
    """Until each worker has a process that waits to replace it; at most so long, and not without any."""
    until = time.monotonic() + STANDBY_S
    while time.monotonic() < until:
        units = run(environ, "status", "-n", name, "--json")["units"]
        waiting = [unit["standby"] for unit in units if unit["role"] in ("decode", "prefill", "agg")]
        if "--no-standby" in sys.argv or all(one == "ready" for one in waiting):
            return
        time.sleep(0.5)


def restarts(status: dict[str, Any]) -> dict[str, int]:
    """Unit -> how often it was started again."""
    return {unit["name"]: unit["restarts"] for unit in status["units"]}


def one_kill(environ: dict[str, str], name: str, load: Load, kill: str) -> dict[str, Any]:
    """SIGKILL, and what comes of it."""
    before = run(environ, "status", "-n", name, "--json")
    pid = victim(before, kill)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    phases: list[tuple[float, str]] = []
    while True:
        time.sleep(0.5)
        passed = time.monotonic() - began
        status = run(environ, "status", "-n", name, "--json")
        said = "; ".join(f"{unit['name']} {unit['state']} {unit['phase']}" for unit in status["units"])
        if not phases or phases[-1][1] != said:
            phases.append((round(passed, 1), said))
        is_ready = status["state"] == "ready" and restarts(status) != restarts(before)
        if status["state"] == "failed" or passed > PATIENCE_S or (is_ready and load.served_since(began)):
            break
    ended = time.monotonic()
    served = load.served_since(began)
    mine = [one for one in load.requests if began - REQUEST_S < one.asked < ended and one.ended > began]
    return {
        "kill": kill,
        "state": status["state"],
        "error": status["error"],
        "ready_s": round(passed, 1),
        "serves_s": None if served is None else round(served - began, 1),
        "failed": sum(not one.ok for one in mine),
        "succeeded": sum(one.ok for one in mine),
        "restarts": {name: n - restarts(before)[name] for name, n in restarts(status).items()},
        "memory_mib": load.memory_between(began, ended),
        "phases": phases,
    }


def one_scale(environ: dict[str, str], name: str, load: Load, step: str) -> dict[str, Any]:
    """Another number of workers, and what the requests notice until it is done and for SETTLE_S after it."""
    role, _, rest = step.partition("=")
    count, _, places = rest.partition("@")
    began = time.monotonic()
    run(environ, "scale", role, count, "-n", name, "--json", *(("--gpus", places) if places else ()))
    took = time.monotonic() - began
    time.sleep(SETTLE_S)
    ended = time.monotonic()
    status = run(environ, "status", "-n", name, "--json")
    mine = [one for one in load.requests if one.ended > began and one.asked < ended]
    return {
        "scale": step,
        "state": status["state"],
        "error": status["error"],
        "took_s": round(took, 1),
        "workers": sorted(unit["name"] for unit in status["units"]),
        "failed": sum(not one.ok for one in mine),
        "succeeded": sum(one.ok for one in mine),
        "slowest_s": round(max((one.ended - one.asked for one in mine), default=0.0), 2),
        "memory_mib": load.memory_between(began, ended),
    }


def main() -> None:
    """Up, one step after the other, down."""
    out, *rest = sys.argv[1:]
    steps, (_, *words) = split(rest)
    own, engine = split(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("SIGTERM"))
    name = own[own.index("-n") + 1] if "-n" in own else "default"
    began = time.monotonic()
    body: dict[str, Any] = {"up": words, "before_mib": gpus.memory_used(), "steps": []}
    with tempfile.TemporaryDirectory() as home:
        environ = {"DYNAMOCTL_HOME": home, **os.environ}
        up = run(environ, "up", *own, "--json", *engine)
        body["up_s"] = round(time.monotonic() - began, 1)
        print(f"{out}: up after {body['up_s']} s", flush=True)
        load = Load(up["endpoint"].removesuffix("/v1"), up["model"])
        try:
            for step in steps:
                time.sleep(SETTLE_S)
                if "=" in step:
                    seen = one_scale(environ, name, load, step)
                else:
                    until_standbys_are_ready(environ, name)
                    seen = one_kill(environ, name, load, step)
                body["steps"].append(seen)
                shown = {key: value for key, value in seen.items() if key not in ("memory_mib", "phases")}
                print(f"{out}: {shown}", flush=True)
                Path(out).write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
                if seen["state"] != "ready":
                    break
        finally:
            load.stop()
            body["down"] = run(environ, "down", "-n", name, "--json")
        body["requests"] = [asdict(one) for one in load.requests if not one.ok]
        time.sleep(2.0)
        body["after_mib"] = gpus.memory_used()
        Path(out).write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        print(f"{out}: {body['before_mib']} MiB before, {body['after_mib']} MiB after", flush=True)


if __name__ == "__main__":
    main()
