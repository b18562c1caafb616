"""Up, kill, recover, down, again and again, with Dynamo's mocker: does anything grow?

    python benchmarks/soak.py [--cycles 200] [--at-once 2] [--json FILE]

One cycle: `up agg --engine mocker`; SIGKILL to the worker, or the frontend, in turn; ready again;
`down`. After each: the processes and sockets that are left, files under the deployment's folder and
in /dev/shm, their bytes. Before each `down`: the supervisor's resident memory and open descriptors. The last
quarter of the cycles is held against the first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path

from command import run
from dynamoctl.host.processes import MARK, all_pids, environment_of, files_of

FIRST_PORT = 18000
PATIENCE_S = 120.0
KILLED = ("worker-0", "frontend")
Row = dict[str, float]


def ours(home: Path) -> list[int]:
    """The processes that deployments of this home have started."""
    return [
        pid
        for pid in all_pids()
        if environment_of(pid, "DYNAMOCTL_HOME") == str(home)
        and (environment_of(pid, MARK) or (home / "deployments/default") == working_folder(pid))
    ]


def working_folder(pid: int) -> Path | None:
    """Where a process works; None where it is gone or not ours to ask."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def resident_kib(pid: int) -> int:
    """A process's resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def killed_and_back(home: Path, environ: dict[str, str], name: str) -> tuple[int, int]:
    """SIGKILL to a unit, and wait until all is ready again.

    Returns:
        The supervisor's resident memory, KiB, and its open descriptors.

    Raises:
        TimeoutError: it was not ready again in time.
    """
    pid = next(unit["pid"] for unit in run(environ, "status", "--json")["units"] if unit["name"] == name)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        body = run(environ, "status", "--json")
        unit = next(unit for unit in body["units"] if unit["name"] == name)
        if body["state"] == "ready" and unit["restarts"] == 1:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"{body['state']}: {unit}")
        time.sleep(0.5)
    state = json.loads((home / "deployments/default/state.json").read_text())
    supervisor = state["supervisor"]["pid"]
    return resident_kib(supervisor), len(os.listdir(f"/proc/{supervisor}/fd"))


def cycle(home: Path, number: int) -> Row:
    """One time up and down.

    Raises:
        SystemExit: a command of dynamoctl failed.
        TimeoutError: it was not ready again in time.
    """
    environ = {**os.environ, "DYNAMOCTL_HOME": str(home)}
    # Each stream has a port of its own for HTTP.
    port = str(FIRST_PORT + int(home.name.rpartition("-")[2]))
    began = time.monotonic()
    run(environ, "up", "agg", "--engine", "mocker", "--drain", "0", "--port", port, "--json")
    try:
        memory, descriptors = killed_and_back(home, environ, KILLED[number % len(KILLED)])
        outside = files_of(ours(home))
    finally:
        run(environ, "down", "--json")
    files = [path for path in home.rglob("*") if path.is_file()]
    return {
        "seconds": time.monotonic() - began,
        "supervisor_kib": memory,
        "supervisor_descriptors": descriptors,
        "processes_left": len(ours(home)),
        "outside_files_left": sum(Path(path).exists() for path in outside),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def measured(cycles: int, at_once: int) -> list[Row]:
    """That many cycles, in so many streams."""
    rows: list[Row] = []
    failures: list[BaseException] = []
    numbers = iter(range(cycles))
    lock = threading.Lock()

    def stream(home: Path) -> None:
        while True:
            with lock:
                number = None if failures else next(numbers, None)
            if number is None:
                return
            try:
                row = cycle(home, number)
            except BaseException as error:
                failures.append(error)
                return
            with lock:
                rows.append(row)
                print(f"{len(rows)}: {json.dumps(row)}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder) / f"home-{number}" for number in range(at_once)]
        streams = [threading.Thread(target=stream, args=(home,)) for home in homes]
        for each in streams:
            each.start()
        for each in streams:
            each.join()
    if failures:
        raise failures[0]
    return rows


def main() -> None:
    """Measure, and print the first quarter against the last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = measured(asked.cycles, asked.at_once)
    quarter = max(1, len(rows) // 4)
    figures = {
        key: {
            "first quarter": statistics.median(row[key] for row in rows[:quarter]),
            "last quarter": statistics.median(row[key] for row in rows[-quarter:]),
            "most": max(row[key] for row in rows),
        }
        for key in rows[0]
    }
    text = json.dumps({"cycles": len(rows), "at_once": asked.at_once, "figures": figures}, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text)


if __name__ == "__main__":
    main()
