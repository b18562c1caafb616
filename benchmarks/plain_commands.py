"""The same workload on `dynamoctl up` and on the plain command lines of the same plan, in turn.

dynamoctl is not on the way of a request, so that both should be equal within noise. The plain commands are
those of `up --dry-run`, each started when the one before answers its gate, with no supervisor and nothing
added.

    python benchmarks/plain_commands.py [--repeat N] [--workload KIND] [--set SIZE=N...] [--json FILE] \\
        -- UP'S ARGUMENTS

as in `-- agg --device cpu`. Every other round begins with the other one. The figures are those of
`dynamoctl bench compare`: mean times to the first token, inter-token latency p99, tokens a second. What
LMCache gave back is counted by the engines.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from command import run, split
from dynamoctl.answers.bench import Figures, PassCounts
from dynamoctl.bench import comparison, results, workloads
from dynamoctl.bench.results import Measurement
from dynamoctl.bench.workloads import Workload
from dynamoctl.monitoring import cache_probe, observe
from dynamoctl.operations.load_generators import Load, send
from dynamoctl.planner.plan import DeploymentPlan
from start_order import at_home, plain

SETTLE_S = 1.0
Started = Callable[[Path, list[str]], AbstractContextManager[DeploymentPlan]]


@contextlib.contextmanager
def managed(home: Path, words: list[str]) -> Iterator[DeploymentPlan]:
    """A deployment that `dynamoctl up` has brought up."""
    own, engine = split(words)
    run(at_home(home), "up", *own, "--json", *engine)
    try:
        body = json.loads((home / "deployments/default/plan.json").read_text())
        yield DeploymentPlan.from_json(body["plan"])
    finally:
        run(at_home(home), "down", "--json")


def measured(plan: DeploymentPlan, workload: Workload, seed: int, load: Load) -> list[Measurement]:
    """Every pass."""
    return [asyncio.run(one_pass(plan, one, load)) for one in workload.in_passes(seed)]


async def one_pass(plan: DeploymentPlan, one: workloads.Pass, load: Load) -> Measurement:
    """One pass, after the engines have lost what they must."""
    if one.forget and not await cache_probe.clear_prefix_caches(plan):
        sys.exit("the engines do not empty their own prefix caches")
    before = await observe.snapshot(plan)
    with tempfile.TemporaryDirectory() as folder:
        seconds, answered = send(plan, one.requests, load, Path(folder), lambda _: None)
    await asyncio.sleep(SETTLE_S)
    after = await observe.snapshot(plan)
    if any(request.error for request in answered):
        sys.exit(f"a request failed: {answered}")
    hits = PassCounts(lmcache_hit_tokens=after.total("hit_tokens") - before.total("hit_tokens"))
    return Measurement(one.label, seconds, tuple(answered), hits)


def main() -> None:
    """Measure both, print the figures and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--workload", choices=list(workloads.KINDS), default="reuse")
    parser.add_argument("--set", action="append", default=[], dest="sizes")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("up", nargs="+", metavar="UP'S ARGUMENTS")
    given = parser.parse_args()
    workload = workloads.make(given.workload, given.sizes)
    kinds: tuple[tuple[str, Started], ...] = (("plain commands", plain), ("dynamoctl up", managed))
    runs: dict[str, list[list[Measurement]]] = {name: [] for name, _ in kinds}
    rounds: list[dict[str, Any]] = []  # how much one start differs from the next
    for number in range(given.repeat):
        for name, started in kinds if number % 2 == 0 else reversed(kinds):
            with tempfile.TemporaryDirectory() as home, started(Path(home), given.up) as plan:
                print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
                runs[name].append(measured(plan, workload, given.seed + number, Load(given.concurrency)))
            figures = comparison.figures([results.summed_up(one) for one in runs[name][-1]])
            rounds.append({"round": number + 1, "started by": name, **asdict(figures)})
            print(rounds[-1], flush=True)
    found: dict[str, Any] = {}
    for name, each in runs.items():
        passes = [results.summed_up(one) for one in comparison.pooled(each)]
        figures = comparison.figures(passes)
        found[name] = {
            "figures": asdict(figures),
            "hit_tokens": [one.counted.lmcache_hit_tokens for one in passes],
            "passes": [asdict(results.rounded(replace(one, counted=PassCounts()))) for one in passes],
        }
        print(f"{name}: {figures}; hits {found[name]['hit_tokens']}")
    both = [Figures(**found[name]["figures"]) for name, _ in kinds]
    found["ratios"] = asdict(comparison.ratios(both[1], both[0]))
    print(f"dynamoctl up, in times of the plain commands: {found['ratios']}")
    if given.json is not None:
        body = {
            "workload": workloads.as_json(workload, given.seed),
            "up": given.up,
            **found,
            "rounds": rounds,
        }
        given.json.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
