"""What `bench` draws: how far it is, and its figures."""

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
    from dynamoctl.operations.compare import Compared, Watching
    from dynamoctl.state import DeploymentState

# Key in a pass's JSON, its name, and the unit it is shown in.
_LATENCIES = (
    ("ttft_s", "time to first token", "s", 1),
    ("inter_token_latency_s", "inter-token latency", "ms", 1000),
    ("latency_s", "end to end", "s", 1),
)
_SPREAD = ("mean", "p50", "p95", "p99")
# Elsewhere than on a terminal, a line is said for so much of the whole.
_SAID_EVERY = 0.25


class BenchDisplay(Display):
    """How many requests have been answered, and the time that is left."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet, transient=True)
        self._what = ""
        self._said: tuple[str, int] = ("", 0)

    def progress(self, now: Progress) -> None:
        """So far it is."""
        left = f", about {duration(now.left_s + 1)} left" if now.left_s is not None else ""
        words = f"{self._what}pass '{now.label}': {now.done} of {now.total} requests answered{left}"
        if self.live is not None:
            from rich.progress_bar import ProgressBar
            from rich.table import Table

            row = Table.grid(padding=(0, 1))
            row.add_row(ProgressBar(max(1, now.total), now.done, width=30), words)
            self.live.update(row)
            return
        part = int(now.done / max(1, now.total) / _SAID_EVERY)
        if (now.label, part) != self._said:
            self._said = (now.label, part)
            self.say(words)


class CompareDisplay(BenchDisplay):
    """Which variant is on, what its units do, and how far its load is."""

    def watching(self, so_far: Callable[[Compared], None]) -> Watching:
        """For the operation."""
        from dynamoctl.operations.compare import Watching

        return Watching(self.begins, self.state, self.progress, self.model, so_far)

    def begins(self, variant: str, number: int, what: str) -> None:
        """The next step of a variant."""
        turn = f", round {number + 1}" if number else ""
        self._what = f"{variant}{turn}: "
        self._words(f"{self._what}{what}")
        self.say(f"{self._what}{what}")

    def state(self, state: DeploymentState) -> None:
        """Its units come up, or go."""
        doing = [f"{unit.name} {unit.phase or unit.state}" for unit in state.units]
        self._words(f"{self._what}{', '.join(doing)}")

    def model(self, what: str, _fraction: float) -> None:
        """A model is prepared."""
        self._words(f"{self._what}preparing the model: {what}")

    def _words(self, words: str) -> None:
        if self.live is not None:
            from rich.spinner import Spinner

            self.live.update(Spinner("dots", f" {words}", style="yellow"))


def draw_compare(body: dict[str, Any]) -> None:
    """Variants side by side, to stdout."""
    out = _out()
    _draw_head(out, body)
    out.print(_variants(body))
    against = body["against"]
    if against and len([one for one in body["variants"] if one["ratios"]]) > 1:
        out.print()
        out.print(f"times the figures of {against}:", markup=False)
        out.print(_ratios(body))


def draw_tune(body: dict[str, Any]) -> None:
    """The sweep and what came of it, to stdout."""
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
    first = next((one["bench"] for one in body["variants"] if one["bench"]), None)
    model = f"{first['model']}, " if first else ""
    out.print(f"{body['workload']['kind']}: {model}same prompts for all{rounds}", style="bold", markup=False)
    out.print(_circumstances({"forgotten_by": first and first["forgotten_by"], **body}), markup=False)
    out.print()


def _variants(body: dict[str, Any]) -> Table:
    table = _table("VARIANT", *(title for _, title, _ in _FIGURES), "LMCACHE HITS", "READY, s")
    for one in body["variants"]:
        ready = ", ".join(f"{seconds:.0f}" for seconds in one["ready_s"]) or "-"
        if one["figures"] is None:
            table.add_row(
                one["name"], "failed" if one["error"] else "not measured", *([""] * len(_FIGURES)), ready
            )
            continue
        cells = [(one["figures"][key], factor) for key, _, factor in _FIGURES]
        hits = [each["counted"]["lmcache_hit_tokens"] for each in one["bench"]["passes"]]
        table.add_row(
            one["name"],
            *("-" if value is None else _digits(value * factor) for value, factor in cells),
            _count(sum(hit or 0 for hit in hits) if any(hit is not None for hit in hits) else None),
            ready,
        )
    return table


def _ratios(body: dict[str, Any]) -> Table:
    table = _table("VARIANT", *(title.partition(",")[0] for _, title, _ in _FIGURES))
    for one in body["variants"]:
        if one["ratios"] and one["name"] != body["against"]:
            values = [one["ratios"][key] for key, _, _ in _FIGURES]
            table.add_row(one["name"], *("-" if value is None else f"{value:.2f}" for value in values))
    return table


def draw_bench(body: dict[str, Any]) -> None:
    """The figures of one deployment under one workload, to stdout."""
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
    """What was measured, on a line."""
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
        words.append(f"{body['request_rate']:g} a second")
    words.append(f"seed {body['workload']['seed']}")
    how = {
        "reset": "before each later pass the engines' own prefix caches were emptied",
        "fill": "the documents are more than the engines' own prefix caches hold",
        None: "",
    }[body["forgotten_by"]]
    return "; ".join(filter(None, (", ".join(words), how)))


def _latencies(passes: list[dict[str, Any]]) -> Table:
    table = _table("", "PASS", *(name.upper() if name == "mean" else name for name in _SPREAD))
    for key, name, unit, factor in _LATENCIES:
        for number, one in enumerate(passes):
            values = [one[key][column] * factor if one[key] else None for column in _SPREAD]
            table.add_row(
                f"{name}, {unit}" if number == 0 else "",
                one["label"],
                *("-" if value is None else _digits(value) for value in values),
            )
    return table


def _counts(passes: list[dict[str, Any]]) -> Table:
    moves = any(one["counted"]["transfers"] for one in passes)
    failed = any(one["failed"] for one in passes)
    columns = ["PASS", "REQUESTS", *(["FAILED"] if failed else []), "SECONDS", "TOKENS/S", "PROMPT TOKENS"]
    columns += ["LMCACHE HITS", "ENGINE HITS", *(["NIXL"] if moves else [])]
    table = _table(*columns)
    for one in passes:
        counted = one["counted"]
        cells = {
            "PASS": one["label"],
            "REQUESTS": f"{one['requests']:,}",
            "FAILED": f"{one['failed']:,}",
            "SECONDS": f"{one['seconds']:.1f}",
            "TOKENS/S": f"{one['total_tokens_per_s']:,.0f}",
            "PROMPT TOKENS": f"{one['prompt_tokens']:,}",
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
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _out() -> Console:
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not on_terminal, width=None if on_terminal else WIDE)
