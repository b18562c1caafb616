"""Write what the program itself says into the documentation, so that it cannot drift.

That is docs/reference.md, the man page docs/dynamoctl.1, dynamoctl/dynamoctl.schema.json and parts of other
pages.

python docs/generate.py            write it
python docs/generate.py --check    exit 1 with the difference if it is out of date
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import manpage
import rule_table
import typer.main
from dynamoctl import cli, errors
from dynamoctl.bench.comparison import Figures
from dynamoctl.bench.results import Counted, PassResult
from dynamoctl.cli import doctor, down, export, init, logs, up
from dynamoctl.config import json_schema, spec
from dynamoctl.export import grafana
from dynamoctl.host.processes import identify
from dynamoctl.humanize import attributes
from dynamoctl.lmcache import environment
from dynamoctl.monitoring.observe import Memory, Snapshot
from dynamoctl.monitoring.rates import Change
from dynamoctl.operations import bench, compare
from dynamoctl.operations.chat import Reply
from dynamoctl.operations.status import _body
from dynamoctl.operations.watch import _rates
from dynamoctl.planner.plan import DeploymentPlan, Gate, Role, Unit
from dynamoctl.state import DeploymentState, UnitState
from dynamoctl.supervisor import lifecycle
from pydantic import BaseModel

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference.md"
CONFIG = DOCS / "config.md"
RELIABILITY = DOCS / "reliability.md"
OBSERVABILITY = DOCS / "observability.md"
FIRST_TRIES = DOCS / "first-tries.md"
RULES = DOCS / "rules.md"
TRIES = DOCS.parent / "tests" / "unit" / "first_tries.py"
SCHEMA = DOCS.parent / "dynamoctl" / json_schema.SCHEMA_NAME
MAN_PAGE = DOCS / "dynamoctl.1"
FAULTS = DOCS / "faults.json"
EXAMPLE = DOCS.parent / "examples" / "agg.toml"
WIDTH = 100

STATUS_WORDS = {
    "name": "the deployment",
    "mode": "`agg`, `disagg`; null where it was never started",
    "state": "`starting`, `ready`, `degraded` (a unit is down and on its way back, another host's"
    " part of it is missing, or etcd or a store of LMCache's does not answer), `stopping`, `stopped`,"
    " `failed`, `unsupervised` (its supervisor is gone, some of its processes live)",
    "model": "the name that clients use",
    "endpoint": "the frontend's base URL, without `/v1`; null where it is on another host",
    "units": "one object for each unit, below",
    "cache": "LMCache's counters, below; null where LMCache is off or nothing was asked",
    "transfers": "NIXL's KV transfers, below; null where nothing was asked",
    "load": "requests and tokens, below; null where nothing was asked",
    "gpus": "one object for each of its GPUs, below; empty where it has none or nothing was asked",
    "remote": "its workers on other hosts, as etcd knows them, each with `component`, `endpoint` and"
    " `address`; null where etcd or the supervisor does not say",
    "error": "why it failed: `code`, `message`, `hint`; or null",
    "warnings": "a list of what should be known but does not stop it",
}
UNIT_WORDS = {
    "name": "`frontend`, `lmcache`, `worker-0`, `decode-0`, `prefill-0`, ...",
    "role": "`frontend`, `cache`, `agg`, `decode`, `prefill`",
    "state": "see [the states of a unit](#the-states-of-a-unit)",
    "phase": "what it is doing while it starts, in words; empty once it is ready",
    "pid": "its first process; null where it does not run",
    "gpus": "its GPUs",
    "memory_mib": "the host's memory that its processes hold, MiB, without the files that they have mapped;"
    " null where it does not run or was not asked",
    "gpu_memory_mib": "what they hold on its GPUs, MiB; null where it has none or was not asked, and where"
    " NVML does not show its processes (in some containers)",
    "health": "`ok`, or why not; null where it was not asked",
    "restarts": "how often it was restarted since `up`",
    "uptime_s": "seconds since it was started last; null where it does not run",
    "requests_running": "requests that a worker's engine works on now; null where it is no worker or did not"
    " answer",
    "requests_waiting": "requests that wait in its engine now; null as above",
    "kv_cache_usage": "how much of its KV cache is in use, 0 to 1; null as above",
}
CACHE_WORDS = {
    "hit_tokens": "tokens that LMCache had, since the start",
    "requested_tokens": "tokens that it was asked for",
    "hit_rate": "their ratio, 0 to 1; null where nothing was asked for yet",
}
TRANSFER_WORDS = {
    "count": "transfers between workers, since the start",
    "bytes": "what they moved",
    "failed": "transfers and notifications that failed",
}
LOAD_WORDS = {
    "requests_running": "requests that the workers' engines work on now; in a disaggregated deployment, a"
    " request is on a prefill worker first, then on a decode worker; null where no worker answered",
    "requests_waiting": "requests that wait in an engine now; null where no worker answered",
    "requests_total": "requests that the frontend has finished since it was started last, that by which `up`"
    " proves the deployment too; null where the frontend did not answer",
    "failed_requests_total": "how many of them ended with an error",
    "prompt_tokens_total": "tokens of their prompts",
    "generation_tokens_total": "tokens that were generated",
    "moved_requests_total": "how often the frontend moved a request to another worker because its own had"
    " died; a move that no other worker could take counts too, and that request is among the failed; null"
    " where requests are not moved (`migration_limit`) or the frontend did not answer",
}
RATE_WORDS = {
    "interval_s": "seconds since the look before",
    "requests_per_s": "requests finished in a second since then; here and below null where nobody counts"
    " such",
    "failed_requests_per_s": "those that ended with an error",
    "prompt_tokens_per_s": "tokens of prompts",
    "generation_tokens_per_s": "tokens generated",
    "cache_hit_rate": "the share of the tokens that LMCache was asked for since then and had, 0 to 1; null"
    " where it was asked for none",
    "transfers_per_s": "NIXL's KV transfers",
    "transferred_bytes_per_s": "what they moved",
    "latency_interval_s": "seconds over which the latencies below are: the last 30, or the last interval"
    " where that is longer",
    "ttft_p50_s": "time to first token as the frontend saw it, seconds: half of the requests were not slower;"
    " from its histogram, so within one of its buckets it is a guess; null where there was none",
    "ttft_p95_s": "the same for 95 of 100",
    "inter_token_latency_p50_s": "time from one token to the next, seconds, likewise",
    "inter_token_latency_p95_s": "the same for 95 of 100",
}
GPU_WORDS = {
    "gpu": "its index or UUID, as in the unit's `gpus`, always a string",
    "memory_used_mib": "what is in use there by anybody, MiB",
    "memory_total_mib": "what there is in all, MiB",
    "utilization": "the share of the last moment (up to a second) in which a kernel ran there, 0 to 1; null"
    " where NVML does not say (MIG)",
}
UP_WORDS = {
    "name": "the deployment",
    "mode": "`agg` or `disagg`",
    "state": "`ready`, or `degraded` where it was up before and a unit is on its way back",
    "model": "the name that clients use",
    "endpoint": "the frontend's base URL, without `/v1`; null where it is on another host",
    "already_up": "true where it was up before, with the same plan",
    "seconds": "from the start of the supervisor to the proving completion",
    "warnings": "what should be known but did not stop it",
}
INIT_WORDS = {
    "path": "the file that was written, from the root",
    "mode": "`agg` or `disagg`",
    "device": "`cuda` or `cpu`",
    "model": "the name that clients use",
    "next": "the command to run next",
    "notes": "a list of what should be known of the choices",
    "cores": "the CPU cores that may be used",
    "memory_total_gib": "the host's memory, GiB",
    "memory_available_gib": "what of it is free, GiB",
    "gpus": "the GPUs that may be used, each with `gpu` (as `--gpus` counts them, a string), `name` and"
    " `memory_total_mib`; the last two are null for a MIG instance",
    "models": "the models that need no download",
}
BENCH_WORDS = {
    "name": "the deployment",
    "mode": "`agg` or `disagg`",
    "model": "the name under which it is served",
    "device": "`cuda` or `cpu`",
    "engine": "`vllm` or `mocker`",
    "workers": "its workers: `name`, `gpus`",
    "lmcache": "null where it is off; else `mode`, `chunk_size`, `cpu_gib`, and `tiers` below CPU memory",
    "tool": "what sent the requests",
    "versions": "versions of the engine's packages",
    "began": "when, UTC",
    "workload": "`kind`, `seed`, and its sizes by the names of the command's flags",
    "concurrency": "requests at a time, at most",
    "request_rate": "requests that began in a second, on average; null: each as soon as it might",
    "forgotten_by": "how the engines' own prefix caches lost what they had: `reset` or `fill`;"
    " null where they kept it",
    "passes": "a list, see below",
    "ttft_times_faster": "mean time to the first token in the first pass by that in the later ones (`reuse`)",
}
COMPARE_WORDS = {
    **{key: BENCH_WORDS[key] for key in ("began", "workload", "concurrency", "request_rate")},
    "repeat": "rounds",
    "against": "the variant to which ratios are: the first that did not fail; null where all failed",
    "variants": "a list, see below",
}
VARIANT_WORDS = {
    "name": "the variant",
    "ok": "whether it went well",
    "ready_s": "seconds to ready, in each round",
    "figures": "see below; null where it failed",
    "ratios": "the same keys, each as so many times that of `against`",
    "bench": "as above, all rounds together; null where it failed",
    "error": "why it failed, or null",
}
DOWN_WORDS = {
    "name": "the deployment",
    "was_running": "whether there was anything to take down",
    "stopped": "the units that ran",
    "seconds": "how long it took",
}
DOCTOR_WORDS = {
    "check": "what was looked at",
    "level": "`ok`, `warning` or `error`; with an error `up` would refuse",
    "what": "what was found",
    "why": "what would go wrong; may be empty",
    "mend": "what to do; empty where all is right",
}
CHAT_WORDS = {
    "name": "the deployment",
    "model": "the model that answered",
    "text": "the answer",
    "prompt_tokens": "tokens of the question and of all before it",
    "completion_tokens": "tokens of the answer",
    "ttft_s": "seconds to its first piece",
    "seconds": "seconds to its end",
    "finish_reason": "`stop`, or `length` where `--max-tokens` cut it off",
}
EXPORT_WORDS = {
    "program": "`k8s`, `shell`, `systemd`, `prometheus` or `grafana`",
    "format": "`manifest` (`k8s`), `script` (`shell`), `units` (`systemd`), `targets` or `config`"
    " (`prometheus`), `dashboard` (`grafana`)",
    "content": "what is exported: the text of a manifest, a script or a `prometheus.yml`; file -> text"
    " (`units`); a list of target groups; a dashboard",
    "path": "the file or folder of `--output`; null without",
    "notes": "a list of what should be known of it",
}
LOG_WORDS = {
    "unit": "who wrote the line",
    "line": "the line",
    "time": "when it was written, UTC, as in `2026-11-25T12:34:56.500000Z`; that of the line before it where"
    " it has none, and that of its log where no line has one",
    "level": "`debug`, `info`, `warning`, `error` or `critical`; that of the line before it where it has"
    " none; null where there is none",
}
PLAN_WORDS = {
    "name": "The deployment.",
    "mode": "One worker for prefill and decode, or workers of their own.",
    "device": "Where the workers run.",
    "engine": "What the workers are.",
    "units": "The processes, in the order of their start; below.",
    "role": "What it does.",
    "argv": "Its command line.",
    "gate": "What makes it ready; below.",
}
PREFACE = """\
<!-- Written by docs/generate.py from the program: change the program, not this file. -->

# Reference

- [Commands](#commands)
- [Exit codes](#exit-codes)
- [Configuration](#configuration)
- [Environment](#environment)
- [JSON](#json)
- [The states of a unit](#the-states-of-a-unit)
- [LMCache's settings](#lmcaches-settings)
"""

ENVIRONMENT = """\
## Environment

| variable | read for |
| --- | --- |
| `DYNAMOCTL_HOME` | where the deployments' folders are; default: `dynamoctl` in the user's state folder |
| `DYNAMOCTL_CACHE` | where the converted built-in model is; default: `dynamoctl` in the user's cache folder |
| `ENABLE_LMCACHE` | `1` or `0`: as `--lmcache` and `--no-lmcache` |
| `LMCACHE_*` | LMCache's own settings, checked: see [below](#lmcaches-settings) |
| `CUDA_VISIBLE_DEVICES` | the GPUs that may be used; indices in `--gpus` count within it |
| `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` | models from the hub |
| `NO_COLOR` | no colour where it is set |

Flags win over the environment, which wins over the file, which wins over the defaults.
Every unit gets the environment of `up`, with what the plan adds (`env`) and without what it takes away
(`unset`): `up --dry-run --json` shows both.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is out of date")
    options = parser.parse_args()
    current = True
    pages = {
        REFERENCE: reference(),
        CONFIG: config_page(),
        RELIABILITY: reliability(),
        OBSERVABILITY: observability(),
        FIRST_TRIES: first_tries(),
        RULES: rule_table.page(),
        SCHEMA: json_schema.text(),
        MAN_PAGE: manpage.page(_table_rows(exit_codes()), _table_rows(ENVIRONMENT)),
    }
    for page, new in pages.items():
        old = page.read_text(encoding="utf-8") if page.exists() else ""
        if old == new:
            continue
        if not options.check:
            page.write_text(new, encoding="utf-8")
            continue
        current = False
        before, after = (text.splitlines(keepends=True) for text in (old, new))
        name = str(page.relative_to(DOCS.parent))
        sys.stdout.writelines(difflib.unified_diff(before, after, name, "as it should be"))
        print(f"{name} is out of date: run python docs/generate.py", file=sys.stderr)
    return 0 if current else 1


def config_page() -> str:
    """docs/config.md with the example as it stands in its file."""
    example = _fenced(EXAMPLE.read_text(encoding="utf-8").rstrip("\n"), "toml")
    return _with(CONFIG, EXAMPLE.name, example)


def first_tries() -> str:
    """docs/first-tries.md with what the test of this name tries, and what it asserts of the answers."""
    rows = []
    for one in runpy.run_path(str(TRIES))["TRIES"]:
        before = "".join(f", with `{name}={value}`" for name, value in one.env.items())
        # Words with a backtick in them stand between two.
        says = " … ".join(f"`` {words} ``" if "`" in words else f"`{words}`" for words in one.says)
        rows.append((one.what + before, f"`{one.words}`" if one.words else "", str(one.code), says))
    head = ("what is tried", "words after `dynamoctl`", "exit code", "what is said")
    return _with(FIRST_TRIES, "tries", _table(head, rows))


def reliability() -> str:
    """docs/reliability.md with what the fault tests saw, and what a plain script did."""
    seen = json.loads(FAULTS.read_text(encoding="utf-8"))
    ours, script = seen["dynamoctl"], seen.get("script", {})
    matrix = [
        (fault, row["does"], str(row["orphans"]), str(row["bytes"])) for fault, row in sorted(ours.items())
    ]
    beside = [
        (
            fault,
            # A start that is broken off is not meant to serve.
            "-" if fault.startswith("Ctrl-C") else "yes" if row["serves"] else "no",
            str(row["orphans"]),
            f"{row['bytes']:,}",
            ours[fault]["does"],
            f"{ours[fault]['orphans']} / {ours[fault]['bytes']}",
        )
        for fault, row in script.items()
    ]
    page = _with(
        RELIABILITY, "matrix", _table(("fault", "what dynamoctl does", "orphans", "bytes left"), matrix)
    )
    head = (
        "fault",
        "script: serves again",
        "script: orphans",
        "script: bytes left",
        "dynamoctl",
        "orphans / bytes",
    )
    return _between(page, "beside", _table(head, beside) if beside else "")


def observability() -> str:
    """docs/observability.md with what the dashboard shows, and of which metrics."""
    parts = []
    for title, panels in grafana.ROWS:
        rows = [(panel.title, panel.means, ", ".join(_metrics(panel))) for panel in panels]
        parts += [f"### {title}\n", _table(("panel", "what it says", "metrics"), rows)]
    return _with(OBSERVABILITY, "panels", "\n" + "\n".join(parts) + "\n")


def _metrics(panel: grafana.Panel) -> list[str]:
    names = (name for one in panel.queries for name in re.findall(r"([a-z_:0-9]+)\{", one.expr))
    return [f"`{name}`" for name in dict.fromkeys(names)]


def _with(page: Path, name: str, text: str) -> str:
    return _between(page.read_text(encoding="utf-8"), name, text)


def _between(page: str, name: str, text: str) -> str:
    """A page with this text between its marks of this name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + text + end + after


def reference() -> str:
    """The whole page."""
    parts = [PREFACE, commands(), exit_codes(), configuration(), ENVIRONMENT, json_forms(), states()]
    return "\n".join([*parts, lmcache_settings()])


# ---- commands -----------------------------------------------------------------------------------


def commands() -> str:
    """Every command's --help, as a person sees it at this width."""
    names = list(typer.main.get_command(cli.app()).commands)  # type: ignore[attr-defined]
    parts = ["## Commands\n", _fenced(_help())]
    for name in names:
        parts += [f"### dynamoctl {name}\n", _fenced(_help(name))]
        for inner in getattr(typer.main.get_command(cli.app()).commands[name], "commands", ()):  # type: ignore[attr-defined]
            parts += [f"#### dynamoctl {name} {inner}\n", _fenced(_help(name, inner))]
    return "\n".join(parts)


def _help(*words: str) -> str:
    # Nothing of the caller's environment: colours, widths and the like would come in with it.
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "dynamoctl", *words, "--help"],
        env={**environ, "PYTHONUTF8": "1", "PYTHONPATH": str(DOCS.parent)},
        cwd=DOCS,  # no dynamoctl.toml, and not where the package is
        check=True,
        capture_output=True,
        text=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")


def _fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```\n"


# ---- exit codes ---------------------------------------------------------------------------------


def exit_codes() -> str:
    """The codes of dynamoctl.errors, and the three that are nobody's error."""
    rows: dict[int, list[str]] = {0: ["Done. `down` and `status` with nothing running are 0 too."]}
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    for kind in sorted(kinds, key=lambda kind: inspect.getsourcelines(kind)[1]):
        if kind is errors.DynamoctlError:
            rows.setdefault(kind.exit_code, []).append("It failed while it ran.")
        elif issubclass(kind, errors.DynamoctlError):
            rows.setdefault(kind.exit_code, []).append(_first_sentence(kind))
    rows[129] = ["Broken off by SIGHUP."]
    rows[130] = [
        "Broken off by SIGINT (Ctrl-C). What `up` had started is taken down. `status --watch` ends so with 0."
    ]
    rows[143] = ["Broken off by SIGTERM. What `up` had started is taken down."]
    return "## Exit codes\n\n" + _table(
        ("code", "meaning"), ((str(code), " ".join(words)) for code, words in sorted(rows.items()))
    )


def _first_sentence(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


# ---- configuration ------------------------------------------------------------------------------


def configuration() -> str:
    """The keys of dynamoctl.toml from the models that check them."""
    intro = (
        f"## Configuration\n\nThe keys of `{spec.CONFIG_NAME}`, each with the flag of `up` that wins over it."
        " [config.md](config.md) has an example.\n"
    )
    return "\n".join(
        [
            intro,
            _model_table(spec.DeploymentSpec, ""),
            "### Table `[lmcache]`\n",
            _model_table(spec.LMCacheSpec, "lmcache_"),
        ]
    )


def _model_table(model: type[BaseModel], prefix: str) -> str:
    said = json_schema.meanings(model)
    flags = _flags()
    rows = []
    for name, field in model.model_fields.items():
        flag = flags.get(prefix + name) or flags.get(prefix + name.removesuffix("_s"), "")
        if name == "enabled":
            flag = flags["lmcache"]
        elif name == "lmcache":
            flag = ""
        if not said[name]:
            raise SystemExit(f"docs/generate.py: nothing says what {model.__name__}.{name} is")
        kind = _kind(field.annotation, field.metadata)
        default = _default(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", kind, default, flag, said[name]))
    return _table(("key", "type", "default", "flag", "meaning"), rows)


def _flags() -> dict[str, str]:
    """`up`'s parameters: name -> flags."""
    command = typer.main.get_command(cli.app()).commands["up"]  # type: ignore[attr-defined]
    found = {}
    for parameter in command.params:
        long = [f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts) if flag.startswith("--")]
        found[parameter.name] = ", ".join(long) or "argument"
    return found


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0], [m for a in arguments[1:] for m in getattr(a, "metadata", [a])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one, metadata) for one in arguments if one is not type(None))
    if origin is typing.Literal:
        return ", ".join(f'`"{one}"`' for one in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}s"
    if origin is dict:
        return "table" if arguments[1] is Any else f"table of {_kind(arguments[1])}s"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    names = {str: "string", bool: "true or false", int: "integer", float: "number"}
    return names[annotation] + _limits(metadata)


def _limits(metadata: Iterable[Any]) -> str:
    limits = {key: value for m in metadata for key, value in vars_of(m).items()}
    low = f"above {limits['gt']:g}" if "gt" in limits else ""
    if "ge" in limits:
        low = f"{limits['ge']:g}" if "le" in limits else f"at least {limits['ge']:g}"
    high = f"{limits['le']:g}" if "le" in limits else ""
    if low and high:
        return f", {low} to {high}" if "ge" in limits else f", {low}, at most {high}"
    return f", {low}" if low else ""


def vars_of(metadata: Any) -> dict[str, Any]:
    """The limits (`ge`, `gt`, `le`) that one of pydantic's annotations sets."""
    return {key: getattr(metadata, key) for key in ("ge", "gt", "le") if hasattr(metadata, key)}


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return f"`{list(value)}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, dict):
        return "empty"
    return f"`{value:g}`"


# ---- JSON ---------------------------------------------------------------------------------------


def json_forms() -> str:
    """What --json prints."""
    body = _status_example()
    return "\n".join(
        [
            "## JSON\n",
            "With `--json` a command prints one object to stdout:"
            ' `{"schema": "dynamoctl/COMMAND/v1", "ok": true, ...}`. A failure is'
            ' `{"schema": ..., "ok": false, "error": {"code", "message", "hint"}}`, and `code` is the exit'
            " code. Keys are added to these objects, but none is taken away or given another meaning.\n",
            "### The plan: `up --dry-run --json`\n",
            "Schema `dynamoctl/plan/v1`.\n",
            _dataclass_table(
                DeploymentPlan, {"endpoint": ("str", "The base URL for a client on this host.")}
            ),
            "A unit:\n",
            _dataclass_table(Unit),
            "A gate:\n",
            _dataclass_table(Gate),
            "### `up --json`\n",
            "Schema `dynamoctl/up/v1`.\n",
            _key_table(_keys_of_literal(up, "already_up"), UP_WORDS),
            "### `init --json`\n",
            "Schema `dynamoctl/init/v1`.\n",
            _key_table(_keys_of_literal(init, "next"), INIT_WORDS),
            "### `status --json`\n",
            "Schema `dynamoctl/status/v1`. With `--all`: `deployments`, a list of these.\n",
            _key_table(body, STATUS_WORDS),
            "A unit:\n",
            _key_table(body["units"][0], UNIT_WORDS),
            "`cache`:\n",
            _key_table(body["cache"], CACHE_WORDS),
            "`transfers`:\n",
            _key_table(body["transfers"], TRANSFER_WORDS),
            "`load`:\n",
            _key_table(body["load"], LOAD_WORDS),
            "A GPU:\n",
            _key_table(body["gpus"][0], GPU_WORDS),
            "### `status --watch --json`\n",
            "An object on a line at each look (JSON Lines), as above, and with `rates`: null at the first"
            " look at a start, and where nothing was asked. With `--all`: `deployments`, a list of these."
            " Ctrl-C ends it with exit code 0.\n",
            _key_table(_rates(Change(), Change()), RATE_WORDS),
            "### `doctor --json`\n",
            "Schema `dynamoctl/doctor/v1`: `name`, `mode`, `device` and `model` of the plan, and `findings`,"
            " a list of these. Where `up` would refuse, there is an `error` beside them, the first.\n",
            _key_table(_keys_of_literal(doctor, "check"), DOCTOR_WORDS),
            "### `chat --json`\n",
            "Schema `dynamoctl/chat/v1`.\n",
            _key_table(["name", "model", *(one.name for one in dataclasses.fields(Reply))], CHAT_WORDS),
            "### `bench --json`\n",
            "Schema `dynamoctl/bench/v1`. Where requests failed, there is an `error` beside the figures.\n",
            _key_table(_keys_of_literal(bench, "forgotten_by"), BENCH_WORDS),
            "A pass:\n",
            _dataclass_table(PassResult),
            "`counted`:\n",
            _dataclass_table(Counted),
            "### `bench compare --json`\n",
            "Schema `dynamoctl/bench-compare/v1`. Where a variant failed, there is an `error` beside them.\n",
            _key_table(_keys_of_literal(compare, "against"), COMPARE_WORDS),
            "A variant:\n",
            _key_table(_keys_of_literal(compare, "ratios"), VARIANT_WORDS),
            "`figures`:\n",
            _dataclass_table(Figures),
            "### `bench tune --json`\n",
            "Schema `dynamoctl/bench-tune/v1`: as `bench compare`; a variant has `chunk_size` and `cpu_gib`"
            " too. Beside them `best`, the variant that was taken, `values`, the keys of `[lmcache]` that it"
            " has, `config`, the file, and `written`, whether they were set in it.\n",
            "### `export --json`\n",
            "Schema `dynamoctl/export/v1`.\n",
            _key_table(_keys_of_literal(export, "program"), EXPORT_WORDS),
            "### `logs --json`\n",
            "Schema `dynamoctl/logs/v1`: `name`, and `lines`, in the order of their times, a list of:\n",
            _key_table(_keys_of_literal(logs, "line"), LOG_WORDS),
            "### `down --json`\n",
            "Schema `dynamoctl/down/v1`. With `--all`: `deployments`, a list of these.\n",
            _key_table(_keys_of_literal(down, "was_running"), DOWN_WORDS),
        ]
    )


def _status_example() -> dict[str, Any]:
    """A status as the program makes it, for its keys."""
    cache = {"hit_tokens": 0, "requested_tokens": 0, "hit_rate": None}
    seen = Snapshot(cache=cache, memory=Memory(gpus={"0": (0, 0)}))
    unit = UnitState("worker-0", "agg", "ready", identity=identify(os.getpid()))
    state = DeploymentState("default", "agg", "", "", "", "ready", units=[unit])
    return _body(state, "ready", [], dataclasses.asdict(seen))


def _keys_of_literal(module: types.ModuleType, with_key: str) -> list[str]:
    """The keys of the one dict display in a module that has this key."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if with_key in keys:
                return [str(key) for key in keys]
    raise SystemExit(f"docs/generate.py: {module.__name__} prints no object with '{with_key}'")


def _key_table(keys: Iterable[str], words: Mapping[str, str]) -> str:
    """Keys with what they mean; an undescribed or vanished key is an error."""
    keys = list(keys)
    if set(keys) != set(words):
        odd = ", ".join(sorted(set(keys) ^ set(words)))
        raise SystemExit(f"docs/generate.py: its words and the program's keys differ in: {odd}")
    return _table(("key", "meaning"), ((f"`{key}`", words[key]) for key in keys))


def _dataclass_table(kind: type, more: Mapping[str, tuple[str, str]] | None = None) -> str:
    said = attributes(kind)
    rows = []
    for field in dataclasses.fields(kind):
        words = said.get(field.name) or PLAN_WORDS.get(field.name, "")
        if not words:
            raise SystemExit(f"docs/generate.py: nothing says what {kind.__name__}.{field.name} is")
        words = re.sub(r"\bNone\b", "null", words)
        rows.append((f"`{field.name}`", _json_type(str(field.type)), words))
    rows += [(f"`{name}`", _json_type(type_), words) for name, (type_, words) in (more or {}).items()]
    return _table(("key", "type", "meaning"), rows)


def _json_type(annotation: str) -> str:
    """A Python annotation as JSON has it."""
    text = annotation.replace("Role", str(Role).removeprefix("typing."))
    text = re.sub(r"Literal\[([^\]]*)\]", lambda m: m[1].replace(", ", " | "), text)
    names = {
        r"'(\w+)'": r'`"\1"`',
        r'(?<!`)"(\w+)"(?!`)': r'`"\1"`',
        r"Mapping\[str, (\w+)\]": "object",
        r"tuple\[(Unit|Tier|Setting|Reason), \.\.\.\]": "list of objects",
        r"tuple\[int \| str, \.\.\.\]": "list of integers or strings",
        r"tuple\[str, \.\.\.\]": "list of strings",
        r"\b(Gate|Spread|Counted)\b": "object",
        r"\bstr\b": "string",
        r"\bint\b": "integer",
        r"\bfloat\b": "number",
        r"\bNone\b": "null",
        r" \| ": " or ",
    }
    for pattern, word in names.items():
        text = re.sub(pattern, word, text)
    return text


# ---- states -------------------------------------------------------------------------------------


def states() -> str:
    """The supervisor's table."""
    rows = ((f"`{state}`", f"`{event}`", f"`{to}`") for (state, event), to in lifecycle.TABLE.items())
    return "\n".join(
        [
            "## The states of a unit\n",
            "What is not in this table cannot happen.\n",
            _table(("state", "event", "next state"), rows),
        ]
    )


# ---- LMCache ------------------------------------------------------------------------------------


def lmcache_settings() -> str:
    """The names that dynamoctl knows."""
    by_kind: dict[str, list[str]] = {}
    for key, kind in environment.KEYS.items():
        by_kind.setdefault(kind, []).append(environment.PREFIX + key.upper())
    rows = [(kind, " ".join(f"`{name}`" for name in sorted(names))) for kind, names in by_kind.items()]
    passed = " ".join(f"`{name}`" for name in sorted(environment.PROCESS_VARIABLES))
    families = ", ".join(f"`{prefix}*`" for prefix in environment.PROCESS_PREFIXES)
    return (
        "\n".join(
            [
                "## LMCache's settings\n",
                "The environment variables of LMCache that `up` checks before it hands them on. LMCache"
                " itself drops a value that it cannot read and a name that it does not know, and goes on"
                " without a word; here both are an error (exit code 2).\n",
                "`LMCACHE_CHUNK_SIZE` and `LMCACHE_MAX_LOCAL_CPU_SIZE` are the keys `chunk_size` and"
                " `cpu_gb` of `[lmcache]`.\n",
                _table(("type", "names"), rows),
                f"Handed on unchecked: {passed}, and those that begin with {families}.\n",
            ]
        ).rstrip("\n")
        + "\n"
    )


# ---- small things -------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def _table_rows(markdown: str) -> list[list[str]]:
    """The cells of the table in a text, without its head."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


if __name__ == "__main__":
    sys.exit(main())
