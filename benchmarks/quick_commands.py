"""How long the commands take that people type all the time: their median and slowest, in seconds.

python benchmarks/quick_commands.py [--runs 20] [--name NAME]

`status` is taken of a deployment that is up, where one of this name is; else of nothing. Python's own start
is there to compare with: it is in each of the others.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

DYNAMOCTL = (sys.executable, "-m", "dynamoctl")


def measure(words: tuple[str, ...], runs: int) -> list[float]:
    """Seconds of each run; the first, which fills the page cache, is not counted."""
    took = []
    for _ in range(runs + 1):
        began = time.monotonic()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took.append(time.monotonic() - began)
    return took[1:]


def main() -> int:
    """Read the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--name", default="default", help="the deployment")
    options = parser.parse_args()
    print("| command | median, s | slowest, s |\n| --- | --- | --- |")
    for label, words in {
        "python -c pass": (sys.executable, "-c", "pass"),
        "dynamoctl --help": (*DYNAMOCTL, "--help"),
        "dynamoctl --version": (*DYNAMOCTL, "--version"),
        "dynamoctl status": (*DYNAMOCTL, "status", "-n", options.name),
        "dynamoctl status --json": (*DYNAMOCTL, "status", "--json", "-n", options.name),
    }.items():
        took = measure(words, options.runs)
        print(f"| `{label}` | {statistics.median(took):.2f} | {max(took):.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
