"""One mixed load on several deployments, one after the other: on one GPU, and on two used in several ways.

    python benchmarks/topologies.py --model MODEL [--only NAME...] [--json FILE] -- VLLM'S ARGUMENTS

For each deployment: `dynamoctl up`, the load of `mixed_load.py` (the same arrivals and prompts for all), what
the deployment's own counters say of LMCache and of KV transfers, `dynamoctl down`. Results are added to
what FILE holds already, so that a second run can do the rest; the table at the end is of all.

`agg-1` is one worker on GPU 0, `agg-2` a worker on each of two, `agg-tp-2` one worker on both, `disagg`
decode on GPU 0 and prefill on GPU 1, started in order; `disagg-overlapped` the same, started at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import mixed_load
from command import run
from dynamoctl.host import gpus

DEPLOYMENTS: dict[str, tuple[str, ...]] = {
    "agg-1": ("agg", "--gpus", "0"),
    "agg-2": ("agg", "--gpus", "0,1", "--workers", "2"),
    "agg-tp-2": ("agg", "--gpus", "0,1", "--tp", "2"),
    "disagg": ("disagg", "--gpus", "0,1"),
    "disagg-overlapped": ("disagg", "--gpus", "0,1", "--start", "overlapped"),
}


def counter(port: int, name: str) -> float:
    """A Prometheus counter of a unit, summed over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def transfer_seconds(home: Path) -> tuple[float, float]:
    """Seconds and bytes of the decode workers' KV transfers so far."""
    plan = json.loads((home / "deployments/default/plan.json").read_text())["plan"]
    ports = [unit["ports"]["system"] for unit in plan["units"] if unit["role"] == "decode"]
    names = ("vllm:nixl_xfer_time_seconds_sum", "vllm:nixl_bytes_transferred_sum")
    seconds, size = (sum(counter(port, name) for port in ports) for name in names)
    return seconds, size


def measured(name: str, options: argparse.Namespace, engine: list[str]) -> dict[str, Any]:
    """Everything about one deployment."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environ = {**os.environ, "DYNAMOCTL_HOME": folder}
        words = (*DEPLOYMENTS[name], "--model", options.model, "--port", str(options.port))
        words = (*words, "--lmcache-cpu-gb", str(options.lmcache_cpu_gb))
        before = gpus.memory_used()
        try:
            run(environ, "up", *words, "--json", "--", *engine)
            state = json.loads((home / "deployments/default/state.json").read_text())
            first = min(unit["started_at"] for unit in state["units"])
            ready = {unit["name"]: unit["ready_at"] - unit["started_at"] for unit in state["units"]}
            seconds, size = transfer_seconds(home)
            endpoint, model = state["endpoint"], state["model"]
            load = mixed_load.parse([endpoint, model, "--label", name, *options.load.split()])
            records, start = asyncio.run(mixed_load.measure(load, mixed_load.schedule(load)))
            report = mixed_load.report(load, records, start)
            print(mixed_load.table(report), flush=True)
            status = run(environ, "status", "--json")
            seconds_after, size_after = transfer_seconds(home)
        finally:
            run(environ, "down", "--json")
        time.sleep(2)
    return {
        "words": [*words, "--", *engine],
        "ready_s": {**ready, "proven": state["ready_at"] - first},
        "load": report,
        "errors": [record.error for record in records if record.error][:3],
        "cache": status["cache"],
        "transfers": status["transfers"],
        "transfer_s": seconds_after - seconds,
        "transfer_bytes": size_after - size,
        "gpu_mib_before": before,
        "gpu_mib_after": gpus.memory_used(),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a table of Markdown."""
    heads = ["deployment", "ready s", "long TTFT s p50", "p99", "short TTFT s p50", "p99"]
    heads += ["short ITL ms p50", "p99", "max", "tokens/s", "failed"]
    rows = [heads, ["---"] * len(heads)]
    for name, one in results.items():
        long, short, whole = (one["load"][kind] for kind in ("long", "short", "all"))
        cells = [name, f"{one['ready_s']['proven']:.0f}"]
        cells += [f"{kind['ttft_s'][p]:.3f}" for kind in (long, short) for p in ("p50", "p99")]
        cells += [f"{short['itl_ms'][p]:.1f}" for p in ("p50", "p99", "max")]
        cells += [f"{whole['output_tokens_per_s']:.0f}", f"{whole['failed']} of {whole['requests']}"]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", nargs="+", choices=DEPLOYMENTS, default=list(DEPLOYMENTS), metavar="NAME")
    parser.add_argument("--lmcache-cpu-gb", type=float, default=16, help="for each caching worker's rank")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--load", default="", help="mixed_load.py's options, in one word")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("engine", nargs=argparse.REMAINDER, metavar="-- VLLM'S ARGUMENTS")
    options = parser.parse_args()
    engine = options.engine[1:] if options.engine[:1] == ["--"] else options.engine
    results: dict[str, dict[str, Any]] = {}
    if options.json.exists():
        results = json.loads(options.json.read_text(encoding="utf-8"))
    for name in options.only:
        results[name] = measured(name, options, engine)
        options.json.write_text(json.dumps(results, indent=1, default=str), encoding="utf-8")
        shown = {key: value for key, value in results[name].items() if key not in ("load", "words")}
        print(name, json.dumps(shown), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
