"""Seconds to ready of one deployment, started in three ways, one after the other on an idle machine.

- `first`: `overlapped`, before all others and once: it fills the page cache and the kernel caches, and
  pays for that. It is not to be compared with the others.
- `ordered`, `overlapped`: `dynamoctl up` with that `--start`.
- `script`: the plain sequence that a shell script would run: the same command lines and environments,
  each started when the one before answers its gate, with no supervisor and no proving completion.

    python benchmarks/start_order.py [--repeat N] [--json FILE] [--only VARIANT...] -- UP'S ARGUMENTS

as in `-- disagg --gpus 0,0 --model smollm2-135m-instruct -- --enforce-eager`. A worker's seconds are
from its own start to its own gate; `all gates` is from the first start to the last gate, `proven`
to the first completion that came back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from command import LIMIT_S, run, split
from dynamoctl.monitoring import probes
from dynamoctl.planner.plan import DeploymentPlan

VARIANTS = ("first", "ordered", "overlapped", "script")
Times = dict[str, float]


def at_home(home: Path) -> dict[str, str]:
    """The caller's environment, with deployments kept there."""
    return {**os.environ, "DYNAMOCTL_HOME": str(home)}


def launched(home: Path, start: str, words: list[str]) -> Times:
    """The times of `dynamoctl up --start START`."""
    own, engine = split(words)
    environ = at_home(home)
    run(environ, "up", *own, "--start", start, "--json", *engine)
    try:
        state = json.loads((home / "deployments/default/state.json").read_text())
    finally:
        run(environ, "down", "--json")
    times = {unit["name"]: unit["ready_at"] - unit["started_at"] for unit in state["units"]}
    first = min(unit["started_at"] for unit in state["units"])
    times["all gates"] = max(unit["ready_at"] for unit in state["units"]) - first
    times["proven"] = state["ready_at"] - first
    return times


def asked(probe: Callable[..., Awaitable[tuple[bool, str]]], *words: Any) -> bool:
    """What one attempt of the supervisor's own probe says."""

    async def once() -> bool:
        return (await probe(*words))[0]

    return asyncio.run(once())


def until(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + LIMIT_S
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{process.args!r} ended or took too long")
        time.sleep(0.4)


@contextlib.contextmanager
def plain(home: Path, words: list[str], times: Times | None = None) -> Iterator[DeploymentPlan]:
    """The command lines of `up`'s plan, one after another, with nobody who watches them.

    Args:
        home: where the deployment is kept, and each unit's working folder and log.
        words: up's arguments.
        times: gets the seconds of each unit, of all gates and to the first completion.
    """
    times = {} if times is None else times
    own, engine = split(words)
    plan = DeploymentPlan.from_json(run(at_home(home), "up", *own, "--dry-run", "--json", *engine))
    Path(plan.store).mkdir(parents=True, exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []
    first = time.monotonic()
    try:
        for unit in plan.units:
            work = home / "plain" / unit.name
            work.mkdir(parents=True, exist_ok=True)
            environ = {k: v for k, v in os.environ.items() if k not in unit.unset} | dict(unit.env)
            began = time.monotonic()
            with (work / "log").open("wb") as log:
                process = subprocess.Popen(
                    unit.argv, env=environ, cwd=work, stdout=log, stderr=log, start_new_session=True
                )
            running.append(process)
            until(partial(asked, probes.gate_is_open, unit.gate), process)
            times[unit.name] = time.monotonic() - began
        times["all gates"] = time.monotonic() - first
        until(partial(asked, probes.complete, plan.endpoint, plan.model), running[0])
        times["proven"] = time.monotonic() - first
        yield plan
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            # What a script forgets: the engine's own children. Ending by themselves they clear shared memory.
            with contextlib.suppress(ProcessLookupError):
                for _ in range(100):
                    os.killpg(process.pid, 0)
                    time.sleep(0.1)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def scripted(home: Path, words: list[str]) -> Times:
    """The times of the same command lines, one after another."""
    own, engine = split(words)
    times: Times = {}
    with plain(home, [*own, "--start", "ordered", *engine], times):
        return times


def table(results: list[tuple[str, Times]]) -> str:
    """One row a run."""
    columns = list(dict.fromkeys(name for _, times in results for name in times))
    rows = [["start", *columns]] + [
        [variant, *(f"{times[name]:.1f}" if name in times else "-" for name in columns)]
        for variant, times in results
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def main() -> None:
    """Run the variants and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=1, help="how often all but the first are run")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- UP'S ARGUMENTS")
    options = parser.parse_args()
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    results: list[tuple[str, Times]] = []
    compared = [variant for variant in options.only if variant != "first"]
    first = ["first"] if "first" in options.only else []
    for variant in first + compared * options.repeat:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            if variant == "script":
                times = scripted(home, words)
            else:
                times = launched(home, "overlapped" if variant == "first" else variant, words)
        results.append((variant, times))
        print(table(results[-1:]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print()
    print(table(results))


if __name__ == "__main__":
    main()
