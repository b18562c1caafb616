"""The faults of docs/reliability.md against a plain launch script of the same commands, side by side.

    python benchmarks/plain_script.py docs/faults.json

The script is what one writes by hand, and what Dynamo's examples do: start the frontend in the background,
sleep, start the worker; `trap 'kill 0' EXIT` ends its process group. Command lines and environments are those
of `dynamoctl up agg --engine mocker --dry-run`, and for the engine's processes those of `up agg` on a CPU.

After each fault: does the deployment answer within 30 s? Then the script gets Ctrl-C as from a terminal
(unless it is gone), and 15 s later the processes that live and the bytes that are left are counted, and
removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command import run
from dynamoctl.host.processes import all_pids, command_line, environment_of

MARK = "PLAIN_SCRIPT"
MODEL = "smollm2-135m-instruct"
SLEEP_S = 5
START_PATIENCE_S = 180.0
ANSWER_PATIENCE_S = 30.0
END_PATIENCE_S = 15.0


def port_of(home: Path) -> int:
    """The HTTP port that the plan for this home got."""
    body: dict[str, Any] = json.loads((home / "plan.json").read_text())
    return next(int(unit["ports"]["http"]) for unit in body["units"] if unit["role"] == "frontend")


@dataclass
class Script:
    """One launch script, running.

    Attributes:
        home: a folder of its own, with its plan, logs and Dynamo's store.
        sockets: what lay in the temporary folder before.
    """

    home: Path
    mark: str
    process: subprocess.Popen[bytes] | None = None
    before: set[str] = field(default_factory=set)

    @property
    def units(self) -> list[dict[str, Any]]:
        """The plan's units."""
        body: dict[str, Any] = json.loads((self.home / "plan.json").read_text())
        units: list[dict[str, Any]] = body["units"]
        return units

    def write(self, *words: str) -> None:
        """Make the script from a plan."""
        environ = {**os.environ, "DYNAMOCTL_HOME": str(self.home)}
        plan = run(environ, "up", "agg", *words, "--dry-run", "--json")
        (self.home / "plan.json").write_text(json.dumps(plan))
        lines = ["#!/bin/bash", "trap 'kill 0' EXIT", f"export {MARK}={self.mark}"]
        for unit in plan["units"]:
            folder = self.home / unit["name"]
            folder.mkdir()
            # In a folder of its own, as the supervisor starts it.
            values = [f"{key}={value}" for key, value in unit["env"].items()]
            command = shlex.join(["env", "-C", str(folder), *values, *unit["argv"]])
            log = shlex.quote(str(self.home / f"{unit['name']}.log"))
            last = unit is plan["units"][-1]
            lines.append(f"{command} > {log} 2>&1" + ("" if last else f" &\nsleep {SLEEP_S}"))
        (self.home / "launch.sh").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Run it as a terminal does: a process group of its own."""
        self.before = outside()
        self.process = subprocess.Popen(
            ["bash", str(self.home / "launch.sh")],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def answers(self) -> bool:
        """Whether a completion comes back now."""
        url = f"http://127.0.0.1:{port_of(self.home)}/v1/completions"
        body = json.dumps({"model": MODEL, "prompt": "Hello", "max_tokens": 2}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_PATIENCE_S) as answer:
                return bool(json.loads(answer.read())["choices"])
        except (OSError, ValueError, KeyError):
            return False

    def living(self) -> dict[int, str]:
        """Processes that it has started: pid -> command line. The shell itself is not counted."""
        shell = self.process.pid if self.process else 0
        return {
            pid: command_line(pid)
            for pid in all_pids()
            if environment_of(pid, MARK) == self.mark and pid != shell and command_line(pid) != "gone"
        }

    def pid_of(self, word: str) -> int:
        """The first process whose command line has this word."""
        return min(pid for pid, line in self.living().items() if word in line)

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the foreground process group."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)

    def clean_up(self) -> None:
        """End what is left, by pid; remove what it made."""
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for path in outside() - self.before:
            Path(path).unlink(missing_ok=True)
        shutil.rmtree(self.home)


def outside() -> set[str]:
    """Sockets in the temporary folder, and shared memory."""
    sockets = {str(path) for path in Path(tempfile.gettempdir()).iterdir() if path.is_socket()}
    return sockets | {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}


def bytes_left(script: Script) -> int:
    """What is left but logs and the script: Dynamo's store, shared memory, sockets (one byte each)."""
    store = [path for path in script.home.rglob("*") if "store" in path.parts and path.is_file()]
    found = [*store, *(Path(path) for path in outside() - script.before)]
    return sum(max(1, path.lstat().st_size) for path in found if path.exists())


def until(true: Callable[[], object], patience_s: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def kill(word: str, number: signal.Signals = signal.SIGKILL) -> Callable[[Script], None]:
    """A signal to one of its processes."""
    return lambda script: os.kill(script.pid_of(word), number)


def freeze(script: Script) -> None:
    """SIGSTOP to the worker for 16 s."""
    pid = script.pid_of("dynamo.mocker")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(16)
    os.kill(pid, signal.SIGCONT)


def kill_script(script: Script) -> None:
    """SIGKILL to the script itself."""
    assert script.process is not None
    script.process.kill()
    script.process.wait()


def terminate_script(script: Script) -> None:
    """SIGTERM to the script, as from a service manager or `kill`."""
    assert script.process is not None
    script.process.terminate()


def nothing(_: Script) -> None:
    """Ctrl-C follows every fault; here it is the fault."""


def delete_store(script: Script) -> None:
    """Delete the folder of Dynamo's discovery."""
    for path in list(script.home.rglob("store")):
        shutil.rmtree(path)
    time.sleep(12)


MOCKER = ("--engine", "mocker")
# Fault, as the tests name it; up's arguments; what is done to the running script.
FAULTS: tuple[tuple[str, tuple[str, ...], Callable[[Script], None]], ...] = (
    ("SIGKILL to the frontend", MOCKER, kill("dynamo.frontend")),
    ("SIGKILL to a worker", MOCKER, kill("dynamo.mocker")),
    ("SIGKILL to the supervisor", MOCKER, kill_script),
    ("Ctrl-C or SIGTERM to `up` while units import", MOCKER, terminate_script),
    ("SIGSTOP to any unit for 5 or 16 s", MOCKER, freeze),
    ("the store folder is deleted", MOCKER, delete_store),
    ("SIGKILL to vLLM's EngineCore", (), kill("EngineCore")),
    ("SIGKILL to LMCache's server", (), kill("cache_server")),
    ("Ctrl-C to `up` while vLLM loads", (), nothing),
)


def measured(words: tuple[str, ...], act: Callable[[Script], None], loading: bool) -> dict[str, Any]:
    """One fault: what it does to the script, and what is left.

    Raises:
        RuntimeError: the script did not come up.
    """
    script = Script(Path(tempfile.mkdtemp(prefix="plain-")), os.urandom(8).hex())
    script.write(*words)
    script.start()
    try:
        if loading:
            if not until(lambda: any("EngineCore" in line for line in script.living().values()), 180):
                raise RuntimeError("no engine has begun")
        elif not until(script.answers, START_PATIENCE_S):
            raise RuntimeError(f"the script did not come up: {script.living()}")
        act(script)
        time.sleep(2)
        serves = not loading and until(script.answers, ANSWER_PATIENCE_S)
        script.interrupt()
        until(lambda: not script.living(), END_PATIENCE_S)
        living = script.living()
        print(living)
        return {"serves": serves, "orphans": len(living), "bytes": bytes_left(script)}
    finally:
        script.clean_up()


def main() -> None:
    """Bring every fault about, and write the rows into the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", default=[fault for fault, _, _ in FAULTS])
    asked = parser.parse_args()
    for fault, words, act in FAULTS:
        if fault not in asked.only:
            continue
        row = measured(words, act, loading="while vLLM loads" in fault)
        print(f"{fault}: {row}", flush=True)
        body = json.loads(asked.file.read_text())
        body.setdefault("script", {})[fault] = row
        asked.file.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
