"""What `bench` draws: how far it is, and its figures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dynamoctl.cli.draw import WIDE, Display
from dynamoctl.words import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dynamoctl.operations.bench import Progress

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

    def __init__(self, quiet: bool, what: str = "") -> None:
        super().__init__(quiet, transient=True)
        self._what = f"{what}: " if what else ""
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


def draw_bench(body: dict[str, Any]) -> None:
    """The figures of one deployment under one workload, to stdout."""
    out = _out()
    out.print(title(body), style="bold", markup=False)
    out.print(_circumstances(body), markup=False)
    out.print()
    out.print(_latencies(body["passes"]))
    out.print()
    out.print(_counts(body["passes"]))
    if body["ttft_times_faster"] is not None:
        out.print()
        out.print(
            f"time to first token, mean of the later passes: {body['ttft_times_faster']:.2f} times faster"
        )


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
