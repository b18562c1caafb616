"""What clients of a living deployment notice while it is changed in every way: nothing, or what.

    python benchmarks/change_under_load.py [--seconds 300] [--per-second 20] [--tokens 60] [--json FILE]

Mockers on the CPU (`up disagg`), a steady load of streaming requests. For half of the time nothing is done.
Then the deployment is changed again and again: decode 1 -> 3 -> 1, prefill 1 -> 2 -> 1, a rolling restart of
all workers, another environment variable, a unit that cannot start (which is taken back), and back to the
revision before. Both halves are one run, so that they are compared on the same machine.

Each token comes by itself: a stream is whole if as many pieces came as were asked for, with the finish reason
and the usage that say so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from steady_load import SteadyLoad, Stream

MODEL, NAME, PORT = "smollm2-135m-instruct", "change", 28431
LIMIT_S = 300.0
WARM_UP_S = 5.0


@dataclass
class Half:
    """What clients have got in one half of the time.

    Attributes:
        longest_gap_s: the longest time between two tokens of a stream.
        gap_p99_s: of each stream's longest gap, 99 of 100 are shorter.
        first_token_p99_s: 99 of 100 first tokens came sooner.
    """

    requests: int
    failed: int
    cut: int
    wrong_tokens: int
    longest_gap_s: float
    gap_p99_s: float
    first_token_p99_s: float

    @staticmethod
    def of(streams: list[Stream], tokens: int) -> Half:
        """The figures of these streams."""
        failed = [one for one in streams if one.status != 200 or one.error]
        cut = [one for one in streams if one not in failed and one.finish_reason != "length"]
        wrong = [one for one in streams if one not in (*failed, *cut) and not one.is_whole(tokens)]
        for one in (*failed, *cut, *wrong):
            print(f"not whole: {one}", file=sys.stderr)
        gaps = [one.longest_gap_s for one in streams if one.arrivals]
        firsts = [one.arrivals[0] for one in streams if one.arrivals]
        return Half(
            len(streams), len(failed), len(cut), len(wrong),
            round(max(gaps), 3), round(quantiles(gaps, n=100)[98], 3), round(quantiles(firsts, n=100)[98], 3),
        )  # fmt: skip


class Deployment:
    """Mockers, in a home of their own."""

    def __init__(self, home: Path) -> None:
        self._environ = {**os.environ, "DYNAMOCTL_HOME": str(home)}
        self._flags = [
            *("disagg", "-n", NAME, "--port", str(PORT), "--engine", "mocker"),
            *("--start", "overlapped", "--drain", "10"),
        ]
        self._home = home
        self.done: list[tuple[str, float]] = []
        self("up", *self._flags, "--", "--speedup-ratio", "1")

    def __call__(self, *words: str, code: int = 0) -> None:
        """One command, which must end so."""
        began = time.monotonic()
        done = self._run(*words)
        if done.returncode != code:
            self._run("down", "-n", NAME)
            sys.exit(f"{' '.join(words)}: {done.returncode}\n{done.stderr}")
        self.done.append((words[0], time.monotonic() - began))

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dynamoctl", *words],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def _revision(self) -> str:
        found = json.loads(self._run("history", NAME, "--json").stdout)["revisions"]
        return next(str(one["revision"]) for one in found if one["is_current"])

    def change(self, number: int) -> None:
        """One change after the other, each as a user would ask for it."""
        other, broken = self._home / "other.toml", self._home / "broken.toml"
        other.write_text(f'[env]\nSOMETHING = "{number}"\n', encoding="utf-8")
        broken.write_text(
            f'decode_args = ["--extra-engine-args", "{self._home}/none.json"]\n', encoding="utf-8"
        )
        apply = ("apply", *self._flags, "--workers-only", "--config")
        first = self._revision()
        self("scale", "decode", "3", "-n", NAME)
        self("scale", "prefill", "2", "-n", NAME)
        self("scale", "decode", "1", "-n", NAME)
        self("scale", "prefill", "1", "-n", NAME)
        self("restart", NAME, "decode-0", "prefill-0")
        self(*apply, str(other), "--", "--speedup-ratio", "1")
        self(*apply, str(broken), "--", "--speedup-ratio", "1", code=4)
        self("apply", "-n", NAME, "--to", first, "--workers-only")


def main() -> None:
    """Run it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        deployment = Deployment(Path(home))
        load = SteadyLoad(f"http://127.0.0.1:{PORT}", MODEL, given.per_second, given.tokens)
        began = time.monotonic()
        time.sleep(WARM_UP_S)
        first = len(load.streams)
        time.sleep(given.seconds / 2)
        middle, rounds = len(load.streams), 0
        while time.monotonic() - began < given.seconds + WARM_UP_S:
            deployment.change(rounds)
            rounds += 1
        streams = load.end()
        deployment("down", "-n", NAME)
    alone, changed = (Half.of(part, given.tokens) for part in (streams[first:middle], streams[middle:]))
    print(f"{len(streams)} requests; {rounds} rounds of changes, {len(deployment.done) - 2} commands")
    print("| | left alone | while it is changed | ratio |\n| --- | --- | --- | --- |")
    for name in Half.__dataclass_fields__:
        values = [getattr(half, name) for half in (alone, changed)]
        ratio = f"{values[1] / values[0]:.2f}" if name.endswith("_s") else ""
        print(f"| {name} | {values[0]} | {values[1]} | {ratio} |")
    if given.json:
        body = {"requests": len(streams), "rounds": rounds, "alone": vars(alone), "changed": vars(changed)}
        given.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
