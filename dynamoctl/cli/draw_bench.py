"""Output of `bench`: its progress and its figures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dynamoctl.cli.draw import WIDE, Display
from dynamoctl.humanize import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table

    from dynamoctl.operations.bench import Progress
    from dynamoctl.operations.compare import Comparison, Watching
    from dynamoctl.state import DeploymentState

# (key in a pass's JSON, name for people, unit, factor from seconds to the unit).
_LATENCIES = (
    ("ttft_s", "time to first token", "s", 1),
    ("inter_token_latency_s", "inter-token latency", "ms", 1000),
    ("latency_s", "end to end", "s", 1),
)
_SPREAD = ("mean", "p50", "p95", "p99")
# Share of the requests after which a line is printed, if stderr is not a terminal.
_PRINT_EVERY = 0.25


class BenchDisplay(Display):
    """The number of answered requests, and the remaining time."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet, transient=True)
        self._what = ""
        self._printed: tuple[str, int] = ("", 0)

    def progress(self, now: Progress) -> None:
        """Show the progress of a pass."""
        left = f", about {duration(now.left_s + 1)} left" if now.left_s is not None else ""
        words = f"{self._what}pass '{now.label}': {now.done} of {now.total} requests answered{left}"
        if self.live is not None:
            from rich.progress_bar import ProgressBar
            from rich.table import Table

            row = Table.grid(padding=(0, 1))
            row.add_row(ProgressBar(max(1, now.total), now.done, width=30), words)
            self.live.update(row)
            return
        part = int(now.done / max(1, now.total) / _PRINT_EVERY)
        if (now.label, part) != self._printed:
            self._printed = (now.label, part)
            self.say(words)


class CompareDisplay(BenchDisplay):
    """The current variant, the phases of its units, and the progress of its load."""

    def watching(self, so_far: Callable[[Comparison], None]) -> Watching:
        """The callbacks for `operations.compare`."""
        from dynamoctl.operations.compare import Watching

        return Watching(self.begins, self.state, self.progress, self.model, so_far)

    def begins(self, variant: str, number: int, what: str) -> None:
        """Show the next step of a variant; `number` is the round, from 0."""
        turn = f", round {number + 1}" if number else ""
        self._what = f"{variant}{turn}: "
        self._words(f"{self._what}{what}")
        self.say(f"{self._what}{what}")

    def state(self, state: DeploymentState) -> None:
        """Show the phases of the units while they start or stop."""
        doing = [f"{unit.name} {unit.phase or unit.state}" for unit in state.units]
        self._words(f"{self._what}{', '.join(doing)}")

    def model(self, what: str, _fraction: float) -> None:
        """Show the step of a model's preparation."""
        self._words(f"{self._what}preparing the model: {what}")

    def _words(self, words: str) -> None:
        if self.live is not None:
            from rich.spinner import Spinner

            self.live.update(Spinner("dots", f" {words}", style="yellow"))


def draw_compare(body: dict[str, Any]) -> None:
    """Print a comparison of variants to stdout."""
    out = _out()
    _draw_head(out, body)
    out.print(_variants(body))
    against = body["against"]
    if against and len([variant for variant in body["variants"] if variant["ratios"]]) > 1:
        out.print()
        out.print(f"ratio to the figures of {against}:", markup=False)
        out.print(_ratios(body))


def draw_tune(body: dict[str, Any]) -> None:
    """Print a sweep and its best values to stdout."""
    out = _out()
    _draw_head(out, body)
    out.print(_variants(body))
    if body["best"] is not None:
        values = ", ".join(f"{name} = {value:g}" for name, value in body["values"].items())
        done = f"set in {body['config']}" if body["written"] else "not written"
        out.print()
        out.print(f"best: {values} ({done})", markup=False)


_FIGURES = (
    ("ttft_first_s", "TTFT FIRST, s", 1),
    ("ttft_later_s", "TTFT LATER, s", 1),
    ("inter_token_latency_p99_s", "ITL p99, ms", 1000),
    ("total_tokens_per_s", "TOKENS/S", 1),
)


def _draw_head(out: Console, body: dict[str, Any]) -> None:
    rounds = f"; {body['repeat']} rounds" if body["repeat"] > 1 else ""
    first = next((variant["bench"] for variant in body["variants"] if variant["bench"]), None)
    model = f"{first['model']}, " if first else ""
    out.print(f"{body['workload']['kind']}: {model}same prompts for all{rounds}", style="bold", markup=False)
    out.print(_circumstances({"forgotten_by": first and first["forgotten_by"], **body}), markup=False)
    out.print()


def _variants(body: dict[str, Any]) -> Table:
    table = _table("VARIANT", *(title for _, title, _ in _FIGURES), "LMCACHE HITS", "READY, s")
    for variant in body["variants"]:
        ready = ", ".join(f"{seconds:.0f}" for seconds in variant["ready_s"]) or "-"
        if variant["figures"] is None:
            table.add_row(
                variant["name"],
                "failed" if variant["error"] else "not measured",
                *([""] * len(_FIGURES)),
                ready,
            )
            continue
        cells = [(variant["figures"][key], factor) for key, _, factor in _FIGURES]
        hits = [pass_["counted"]["lmcache_hit_tokens"] for pass_ in variant["bench"]["passes"]]
        table.add_row(
            variant["name"],
            *("-" if value is None else _digits(value * factor) for value, factor in cells),
            _count(sum(hit or 0 for hit in hits) if any(hit is not None for hit in hits) else None),
            ready,
        )
    return table


def _ratios(body: dict[str, Any]) -> Table:
    table = _table("VARIANT", *(title.partition(",")[0] for _, title, _ in _FIGURES))
    for variant in body["variants"]:
        if variant["ratios"] and variant["name"] != body["against"]:
            values = [variant["ratios"][key] for key, _, _ in _FIGURES]
            table.add_row(variant["name"], *("-" if value is None else f"{value:.2f}" for value in values))
    return table


def draw_bench(body: dict[str, Any]) -> None:
    """Print the figures of one deployment under one workload to stdout."""
    out = _out()
    out.print(title(body), style="bold", markup=False)
    out.print(_circumstances(body), markup=False)
    out.print()
    out.print(_latencies(body["passes"]))
    out.print()
    out.print(_counts(body["passes"]))
    if (faster := body["ttft_times_faster"]) is not None:
        out.print()
        out.print(f"mean time to first token: {faster:.2f} times shorter in the later passes")


def title(body: dict[str, Any]) -> str:
    """A description of what was measured, on one line."""
    lmcache = body["lmcache"]
    cache = "no LMCache"
    if lmcache:
        cache = f"LMCache {lmcache['mode']}, {lmcache['cpu_gib']:g} GiB, chunks of {lmcache['chunk_size']}"
    where = "CPU" if body["device"] == "cpu" else "GPUs"
    return (
        f"{body['workload']['kind']} on '{body['name']}': {body['mode']}, {body['model']}, {where}; {cache}"
    )


def _circumstances(body: dict[str, Any]) -> str:
    numbers = {name: value for name, value in body["workload"].items() if name not in ("kind", "seed")}
    words = [f"{name.replace('_', ' ')} {value:,}" for name, value in numbers.items()]
    words.append(f"{body['concurrency']} at a time")
    if body["request_rate"] is not None:
        words.append(f"{body['request_rate']:g} per second")
    words.append(f"seed {body['workload']['seed']}")
    how = {
        "reset": "before each later pass the engines' own prefix caches were emptied",
        "fill": "the documents do not fit into the engines' own prefix caches",
        None: "",
    }[body["forgotten_by"]]
    return "; ".join(filter(None, (", ".join(words), how)))


def _latencies(passes: list[dict[str, Any]]) -> Table:
    table = _table("", "PASS", *(name.upper() if name == "mean" else name for name in _SPREAD))
    for key, name, unit, factor in _LATENCIES:
        for number, pass_ in enumerate(passes):
            values = [pass_[key][column] * factor if pass_[key] else None for column in _SPREAD]
            table.add_row(
                f"{name}, {unit}" if number == 0 else "",
                pass_["label"],
                *("-" if value is None else _digits(value) for value in values),
            )
    return table


def _counts(passes: list[dict[str, Any]]) -> Table:
    moves = any(pass_["counted"]["transfers"] for pass_ in passes)
    failed = any(pass_["failed"] for pass_ in passes)
    columns = ["PASS", "REQUESTS", *(["FAILED"] if failed else []), "SECONDS", "TOKENS/S", "PROMPT TOKENS"]
    columns += ["LMCACHE HITS", "ENGINE HITS", *(["NIXL"] if moves else [])]
    table = _table(*columns)
    for pass_ in passes:
        counted = pass_["counted"]
        cells = {
            "PASS": pass_["label"],
            "REQUESTS": f"{pass_['requests']:,}",
            "FAILED": f"{pass_['failed']:,}",
            "SECONDS": f"{pass_['seconds']:.1f}",
            "TOKENS/S": f"{pass_['total_tokens_per_s']:,.0f}",
            "PROMPT TOKENS": f"{pass_['prompt_tokens']:,}",
            "LMCACHE HITS": _count(counted["lmcache_hit_tokens"]),
            "ENGINE HITS": _count(counted["prefix_hit_tokens"]),
            "NIXL": f"{counted['transferred_bytes'] / 1e6:,.1f} MB",
        }
        table.add_row(*(cells[column] for column in columns))
    return table


def _table(first: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left" if column == "PASS" else "right")
    return table


def _digits(value: float) -> str:
    """A number with about three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _out() -> Console:
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not on_terminal, width=None if on_terminal else WIDE)
