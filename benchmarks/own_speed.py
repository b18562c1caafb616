"""dynamoctl's own speed: what it takes beside the engines that it runs.

    python benchmarks/own_speed.py [--units 2 16] [--stand-ins 64] [--runs 20] [--watch-s 60] [--json FILE]

- commands: seconds of `--help`, `--version`, `status` and `down`, beside those of a bare Typer app and of
  other process managers with as many plain processes. All are run in turn, and so meet the same noise.
- supervisor: its memory and its CPU time while nothing is asked of it, beside the others' daemons.
- up: seconds from the last gate to the return of `up`.
- planner: seconds for plans of up to 1,000 units.

--units N: a frontend and N-1 workers of Dynamo's mocker. --stand-ins N: the same with light processes that
answer and register as those do (`benchmarks/stand_ins`), where the mocker's memory is not to be had.
supervisor and honcho come from PyPI and pm2 from npm, into --tools.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from command import run
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.facts import Gpu, HostFacts, ModelFacts
from dynamoctl.planner import make_plan
from process_managers import Manager, available

DYNAMOCTL = (sys.executable, "-m", "dynamoctl")
STAND_INS = Path(__file__).parent / "stand_ins"
_BARE = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str = "you") -> None:
    "Say hello."
@app.command()
def bye(name: str = "you") -> None:
    "Say goodbye."
app()
"""
# After the last start, before anything is measured: units go on for a while with what they do once.
_SETTLE_S = 10.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Daemon:
    """A process manager while nothing is asked of it.

    Attributes:
        rss_mib, pss_mib: its memory; PSS counts what it shares with others in part.
        cpu_percent: of one core.
    """

    rss_mib: float
    pss_mib: float
    cpu_percent: float


@dataclass
class Deployment:
    """One number of units.

    Attributes:
        up_after_last_gate_s: from the last unit's gate to the return of `up`.
        down_s: `down`, with the time that the units themselves take to end.
        daemons: by name; `dynamoctl` is the supervisor.
        seconds: command -> median.
    """

    units: int
    kind: str
    up_after_last_gate_s: float = 0.0
    down_s: float = 0.0
    daemons: dict[str, Daemon] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def medians(commands: Mapping[str, Sequence[str]], environ: Mapping[str, str], runs: int) -> dict[str, float]:
    """Seconds that each takes, in turn, the median; the first round, which fills the page cache, is not
    counted."""
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, words in commands.items():
            began = time.monotonic()
            subprocess.run(words, env=dict(environ), check=True, capture_output=True)
            took[name].append(time.monotonic() - began)
    return {name: round(statistics.median(times[1:]), 4) for name, times in took.items()}


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, its ended threads too (proc(5): utime, stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def memory_mib(pid: int) -> tuple[float, float]:
    """RSS and PSS."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {line.split()[0]: int(line.split()[1]) for line in rollup[1:]}
    return round(kib["Rss:"] / 1024, 1), round(kib["Pss:"] / 1024, 1)


def idle(pids: Mapping[str, int], watch_s: float) -> dict[str, Daemon]:
    """Watch daemons for so long."""
    before, began = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    time.sleep(watch_s)
    used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    passed = time.monotonic() - began
    return {name: Daemon(*memory_mib(pid), round(100 * used[name] / passed, 2)) for name, pid in pids.items()}


def deployed(
    units: int, light: bool, environ: Mapping[str, str], others: Sequence[type[Manager]], options: Any
) -> Deployment:
    """Bring up so many units, measure, take them down; the others have as many plain processes meanwhile."""
    seen = Deployment(units, "stand-ins" if light else "mockers")
    if light:
        path = os.pathsep.join(filter(None, (str(STAND_INS), environ.get("PYTHONPATH"))))
        environ = {**environ, "PYTHONPATH": path}
    words = (
        "agg",
        "--engine",
        "mocker",
        "--workers",
        str(units - 1),
        "--drain",
        "0",
        "--port",
        str(options.port),
    )
    run(environ, "up", *words, "--json")
    returned = time.time()
    try:
        state = json.loads((Path(environ["DYNAMOCTL_HOME"]) / "deployments/default/state.json").read_text())
        seen.up_after_last_gate_s = round(returned - max(unit["ready_at"] for unit in state["units"]), 2)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            managers = [stack.enter_context(one(options.tools, folder, units)) for one in others]
            time.sleep(_SETTLE_S)
            pids = {"dynamoctl": state["supervisor"]["pid"]} | {one.name: one.pid for one in managers}
            seen.daemons = idle(pids, options.watch_s)
            commands = {
                "dynamoctl status": (*DYNAMOCTL, "status"),
                "dynamoctl status --json": (*DYNAMOCTL, "status", "--json"),
            }
            commands |= {f"{one.name} status": one.status for one in managers if one.status}
            seen.seconds = medians(commands, environ, options.runs)
    finally:
        began = time.monotonic()
        run(environ, "down", "--json")
        seen.down_s = round(time.monotonic() - began, 2)
    return seen


def planning(units: int) -> float:
    """Seconds for a plan of so many units on a host with a GPU for each."""
    gpus = tuple(Gpu(i, f"GPU-{i:08x}", "NVIDIA H100 80GB HBM3", 81559) for i in range(units - 1))
    facts = HostFacts(
        cores=tuple(range(128)), memory_total_gib=2048.0, memory_available_gib=2000.0, gpus=gpus,
        visible_gpus=None, free_ports=tuple(range(20000, 32768)), python=sys.executable, home="/nowhere",
    )  # fmt: skip
    # More than a spec may ask for (64 of a role).
    spec = DeploymentSpec().model_copy(update={"workers": units - 1})
    model = ModelFacts(path="Qwen/Qwen3-0.6B", served_name="Qwen/Qwen3-0.6B", weights_gib=1.4)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert len(make_plan(spec, facts, model).units) == units
        took.append(time.perf_counter() - began)
    return round(statistics.median(took), 4)


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """A table; the first row is its head."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def tables(body: Mapping[str, Any]) -> str:
    """What was measured, for people."""
    commands, deployments = body["commands"], body["deployments"]
    bare = commands["bare Typer --help"]
    plain = [["command, nothing running", "median, s", "times bare Typer"]]
    plain += [[f"`{name}`", f"{took:.3f}", f"{took / bare:.2f}"] for name, took in commands.items()]
    daemons = [["units", "", "RSS, MiB", "PSS, MiB", "CPU, % of a core", "its status, s"]]
    ends = [["units", "`up` returns after the last gate, s", "`down`, s"]]
    for one in deployments:
        count = f"{one['units']} {one['kind']}"
        for name, daemon in one["daemons"].items():
            took = one["seconds"].get(f"{name} status")
            memory = [daemon["rss_mib"], daemon["pss_mib"], daemon["cpu_percent"]]
            daemons.append([count, name, *memory, f"{took:.3f}" if took else "none"])
        ends.append([count, one["up_after_last_gate_s"], one["down_s"]])
    plans = [["units of a plan", "s"], *body["planner"].items()]
    return "\n\n".join(markdown(rows) for rows in (plain, daemons, ends, plans))


def main() -> None:
    """Read the command line, measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, nargs="*", default=[2, 16], metavar="N")
    parser.add_argument("--stand-ins", type=int, nargs="*", default=[64], metavar="N")
    parser.add_argument("--runs", type=int, default=20, help="of each command")
    parser.add_argument("--watch-s", type=float, default=60.0, help="how long daemons are watched, seconds")
    parser.add_argument("--port", type=int, default=18790, help="of the frontend")
    parser.add_argument(
        "--tools", type=Path, help="where the other managers are or go; else a temporary folder"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is taken down then, too
    with tempfile.TemporaryDirectory() as temporary:
        options.tools = options.tools or Path(temporary)
        others = available(options.tools)
        bare = Path(temporary) / "bare.py"
        bare.write_text(_BARE)
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environ |= {"DYNAMOCTL_HOME": f"{temporary}/home"}
        body: dict[str, Any] = {
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "runs": options.runs,
            "watch_s": options.watch_s,
        }
        body["commands"] = medians(
            {
                "python -c pass": (sys.executable, "-c", "pass"),
                "bare Typer --help": (sys.executable, str(bare), "--help"),
                "dynamoctl --help": (*DYNAMOCTL, "--help"),
                "dynamoctl --version": (*DYNAMOCTL, "--version"),
                "dynamoctl status": (*DYNAMOCTL, "status"),
            },
            environ,
            options.runs,
        )
        body["planner"] = {str(units): planning(units) for units in (10, 100, 1000)}
        counts = [(units, False) for units in options.units] + [(units, True) for units in options.stand_ins]
        body["deployments"] = []
        for units, light in counts:
            print(f"{units} units ...", file=sys.stderr)
            body["deployments"].append(asdict(deployed(units, light, environ, others, options)))
    if options.json:
        options.json.write_text(json.dumps(body, indent=1) + "\n")
    print(tables(body))


if __name__ == "__main__":
    main()
