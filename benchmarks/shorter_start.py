"""What shortens a start, one thing left out at a time, each start on weights that the disk must read.

- `all`: as `dynamoctl up` does it.
- `no-read-ahead`: the weights are not asked for while the engine imports.
- `no-shared-compile`: dynamoctl's vLLM plugin is not loaded, so each worker compiles for itself
  (`torch.compile`; nothing is compiled with `--enforce-eager`).
- `neither`: both left out.

    python benchmarks/shorter_start.py [--repeat N] [--json FILE] [--logs FOLDER] [VARIANT...] -- UP'S WORDS

A worker's seconds are from its own start to its own gate; `weights`, `compile` and `graphs` are what vLLM
says in its log that loading, compiling and capturing took, `engine` what its initialisation did, compiling
and capturing included.
Before each start the weights are dropped from the page cache; compiled models stay from one start to
the next, as they do for a user, so the first start of a variant may compile what a later one finds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from command import run, split
from dynamoctl.host import models

VARIANTS = ("neither", "no-read-ahead", "no-shared-compile", "all")
Row = dict[str, Any]

# vLLM 0.26's own words; where it says a thing more than once, the sum.
SAID = {
    "weights": re.compile(r"Loading weights took ([\d.]+) seconds"),
    "compile": re.compile(r"compilation: ([\d.]+) s"),
    "graphs": re.compile(r"Graph capturing finished in ([\d.]+) secs"),
    "engine": re.compile(r"init engine .*?took ([\d.]+) s"),
}


def drop_from_page_cache(model: str) -> None:
    """The next reader gets the weights from the disk."""
    folder = models.locate(model).folder
    for file in models.weight_files(Path(folder)) if folder else ():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def environment(variant: str, home: Path) -> dict[str, str]:
    """The caller's, and what leaves one thing out."""
    environ = {**os.environ, "DYNAMOCTL_HOME": str(home)}
    if variant in ("no-shared-compile", "neither"):
        environ["VLLM_PLUGINS"] = "none"
    if variant in ("no-read-ahead", "neither"):
        # Python reads this module in every process; what the supervisor reads ahead is then nothing.
        (home / "without").mkdir()
        (home / "without/sitecustomize.py").write_text("import os\nos.preadv = lambda *words: 0\n")
        paths = [str(home / "without"), os.environ.get("PYTHONPATH", "")]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environ


def measured(variant: str, words: list[str], logs: Path | None) -> Row:
    """One start, and the end of it."""
    own, engine = split(words)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environ = environment(variant, home)
        plan = run(environ, "up", *own, "--dry-run", "--json", *engine)
        drop_from_page_cache(plan["model_path"])
        run(environ, "up", *own, "--json", *engine)
        deployment = home / "deployments/default"
        try:
            state = json.loads((deployment / "state.json").read_text())
            row: Row = {"variant": variant}
            first = min(unit["started_at"] for unit in state["units"])
            for unit in state["units"]:
                name = unit["name"]
                row[name] = unit["ready_at"] - unit["started_at"]
                text = (deployment / f"logs/{name}.log").read_text(errors="replace")
                for what, pattern in SAID.items():
                    if seconds := [float(found) for found in pattern.findall(text)]:
                        row[f"{name} {what}"] = sum(seconds)
            row["all gates"] = max(unit["ready_at"] for unit in state["units"]) - first
        finally:
            if logs:
                target = logs / f"{variant}-{sum(1 for _ in logs.glob(variant + '-*'))}"
                shutil.copytree(deployment / "logs", target)
            run(environ, "down", "--json")
    return row


def main() -> None:
    """Run the variants and print what each took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the workers' logs there")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="[VARIANT...] -- UP'S ARGUMENTS")
    options = parser.parse_args()
    variants, words = split(options.words)
    chosen, words = variants or list(VARIANTS), words[1:]
    if wrong := set(chosen) - set(VARIANTS):
        parser.error(f"no such variant: {', '.join(sorted(wrong))}; there are {', '.join(VARIANTS)}")
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    rows = []
    for _ in range(options.repeat):
        for variant in chosen:
            rows.append(measured(variant, words, options.logs))
            shown = (f"{key} {value:.1f}" for key, value in rows[-1].items() if key != "variant")
            print(f"{variant}: {', '.join(shown)}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
