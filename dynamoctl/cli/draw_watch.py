"""Output of `status --watch`: live on a terminal, a block of text per look elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from dynamoctl.cli.draw import STYLE, WIDE, by_type, gib, head, troubles
from dynamoctl.humanize import duration

if TYPE_CHECKING:
    from rich.live import Live

    from dynamoctl.answers.status import StatusAnswer
    from dynamoctl.monitoring.rates import Change
    from dynamoctl.operations.watch import WatchedDeployment

_BLOCKS = "▁▂▃▄▅▆▇█"
# Terminal width from which on bars, and columns that are mostly zero, are shown.
_ROOM = 100
_NONE = "-"


class WatchDisplay:
    """Shows each look; the last one stays on the screen.

    Args:
        interval_s: seconds between two looks.
        everything: whether to show several deployments, on one line each.
    """

    def __init__(self, interval_s: float, everything: bool, out: Console | None = None) -> None:
        self._interval_s = interval_s
        self._everything = everything
        on_terminal = sys.stdout.isatty()
        self._out = out or Console(highlight=False, width=None if on_terminal else WIDE)
        self._live: Live | None = None

    def __enter__(self) -> WatchDisplay:
        from rich.live import Live

        if self._out.is_terminal and not self._out.is_dumb_terminal:
            self._live = Live(console=self._out, refresh_per_second=1)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, seen: list[WatchedDeployment]) -> None:
        """Show the deployments of one look."""
        drawn = (
            Overview(seen)
            if self._everything
            else Group(*(DeploymentView(deployment) for deployment in seen))
        )
        if self._live is not None:
            foot = Text(
                f"{time.strftime('%H:%M:%S')}, every {self._interval_s:g} s; Ctrl-C ends it", style="dim"
            )
            self._live.update(Group(drawn, Text(), foot), refresh=True)
            return
        self._out.print(Group(Text(time.strftime("%Y-%m-%d %H:%M:%S")), drawn, Text()))
        self._out.file.flush()


class DeploymentView:
    """One deployment with all figures."""

    def __init__(self, seen: WatchedDeployment) -> None:
        self._seen = seen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        answer = self._seen.status
        if not answer.units:
            yield Text.assemble((answer.name, "bold"), " is not running")
            return
        yield head(answer)
        yield _units(answer, options.max_width)
        lines = list(_figures(self._seen, options.max_width))
        if lines:
            yield Text()
            yield from lines
        yield from troubles(answer)


class Overview:
    """Several deployments, on one line each."""

    def __init__(self, seen: Sequence[WatchedDeployment]) -> None:
        self._seen = seen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._seen:
            yield Text("nothing is running")
            return
        wide = options.max_width >= _ROOM
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("NAME", "STATE", "READY"):
            table.add_column(column, no_wrap=True)
        numbers = ["RUNNING", "WAITING", "REQ/S", "TOKENS/S", "TTFT", *(("ITL",) if wide else ()), "HITS"]
        for column in numbers:
            table.add_column(column, no_wrap=True, justify="right")
        if wide:
            table.add_column("TOKENS/S, 2 MIN", no_wrap=True)
        for deployment in self._seen:
            answer, load = deployment.status, deployment.status.load
            ready = sum(unit.state == "ready" for unit in answer.units)
            latencies = deployment.latencies
            cells = [
                Text(answer.name, style="bold"),
                Text(answer.state, style=STYLE.get(answer.state, "")),
                f"{ready}/{len(answer.units)}",
                _count(load.requests_running if load else None),
                _count(load.requests_waiting if load else None),
                _rate(deployment.last, "requests"),
                _rate(deployment.last, "generation_tokens"),
                _seconds(latencies.quantile("ttft", 0.5)),
                *((_seconds(latencies.quantile("inter_token_latency", 0.5)),) if wide else ()),
                _share(_hits(deployment.last)),
            ]
            if wide:
                rates = [change.per_second("generation_tokens") for change in deployment.recent]
                cells.append(sparkline(rates, 20))
            table.add_row(*cells)
        yield table


def _units(answer: StatusAnswer, width: int) -> Table:
    """A row for each unit. Columns that are zero for all units are left out on a narrow terminal."""
    units = answer.units
    wide = width >= _ROOM
    is_shown = {
        "UNIT": True,
        "STATE": True,
        "GPU": any(unit.gpus for unit in units),
        "GPU MEMORY": any(unit.gpus for unit in units),
        "MEMORY": True,
        "RUNNING": any(unit.requests_running is not None for unit in units),
        "WAITING": any(unit.requests_waiting is not None for unit in units),
        "KV CACHE": any(unit.kv_cache_usage is not None for unit in units),
        "UPTIME": wide or not any(unit.gpus for unit in units),
        "RESTARTS": wide or any(unit.restarts for unit in units),
        "HEALTH": any(unit.health not in (None, "ok") for unit in units),
    }
    columns = [column for column, shown in is_shown.items() if shown]
    right = ("GPU MEMORY", "MEMORY", "RUNNING", "WAITING", "RESTARTS")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in right else "left")
    for unit in units:
        words = unit.state if not unit.phase else f"{unit.state}: {unit.phase}"
        health = unit.health or _NONE
        cells: dict[str, str | Text] = {
            "UNIT": unit.name,
            "STATE": Text(words, style=STYLE.get(unit.state, ""), overflow="ellipsis"),
            "GPU": ",".join(str(gpu) for gpu in unit.gpus) or _NONE,
            "GPU MEMORY": gib(unit.gpu_memory_mib),
            "MEMORY": gib(unit.memory_mib),
            "RUNNING": _count(unit.requests_running),
            "WAITING": _count(unit.requests_waiting),
            "KV CACHE": _bar(unit.kv_cache_usage, 10 if wide else 0),
            "UPTIME": duration(unit.uptime_s) if unit.uptime_s is not None else _NONE,
            "RESTARTS": Text(str(unit.restarts), style="yellow" if unit.restarts else ""),
            "HEALTH": Text(health, style="" if health in (_NONE, "ok") else "red", overflow="ellipsis"),
        }
        table.add_row(*(cells[column] for column in columns))
    return table


def _figures(seen: WatchedDeployment, width: int) -> Iterable[Text]:
    """A line each for load, latency, cache, transfers and GPUs, as far as there are figures."""
    answer, last = seen.status, seen.last
    if answer.load is None:
        return
    load, latencies = answer.load, seen.latencies
    yield _line(
        "requests",
        f"{_count(load.requests_running)} running",
        f"{_count(load.requests_waiting)} waiting",
        _per_second(last, "requests"),
        f"{_count(load.requests_total)} finished",
        f"{_count(load.failed_requests_total)} failed{by_type(load) if width >= _ROOM else ''}",
        *((f"{moved:,} moved",) if (moved := load.moved_requests_total) else ()),
    )
    yield _with_sparkline(
        _line(
            "tokens",
            f"{_per_second(last, 'prompt_tokens')} in prompts",
            f"{_per_second(last, 'generation_tokens')} generated",
        ),
        [each.per_second("generation_tokens") for each in seen.recent],
        seen.recent,
        width,
    )
    yield _line(
        "latency",
        _latency("first token", latencies, "ttft"),
        _latency("between tokens", latencies, "inter_token_latency"),
    )
    if answer.cache is not None:
        yield _with_sparkline(
            _line(
                "LMCache",
                f"{_share(_hits(last))} hits",
                f"{_share(answer.cache.hit_rate)} since the start",
            ),
            [_hits(each) for each in seen.recent],
            seen.recent,
            width,
            most=1.0,
        )
    if answer.transfers and answer.mode == "disagg":
        transfers = answer.transfers
        yield _line(
            "KV transfers",
            _per_second(last, "transfers"),
            _bytes(last.per_second("transferred_bytes") if last else None),
            f"{transfers.count:,} since the start",
            f"{transfers.failed:,} failed",
        )
    for gpu in answer.gpus:
        used, total = gpu.memory_used_mib / 1024, gpu.memory_total_mib / 1024
        line = _line(f"GPU {gpu.gpu}"[:13], f"{used:.1f} of {total:.1f} GiB")
        yield line.append("   busy ").append_text(_bar(gpu.utilization, min(40, max(0, width - 52))))


def _line(label: str, *words: str) -> Text:
    return Text.assemble((f"{label:<14}", "dim"), "   ".join(words))


def _with_sparkline(
    line: Text, values: list[float | None], over: Sequence[Change], width: int, most: float | None = None
) -> Text:
    """The line with a sparkline of the last two minutes, as wide as the terminal allows."""
    room = width - len(line) - 3 - len("  1 min 58 s")
    blocks = sparkline(values, min(60, room), most) if room >= 8 else Text()
    if not blocks:
        return line
    seconds = sum(change.seconds for change in over[-len(blocks) :])
    return line.append("   ").append_text(blocks).append(f"  {duration(seconds)}", style="dim")


def sparkline(values: Sequence[float | None], width: int, most: float | None = None) -> Text:
    """The last values as blocks of proportional height, the newest at the right; a gap for None.

    Args:
        width: number of blocks.
        most: value of a full block; by default, the largest of the values.
    """
    last = values[-width:] if width > 0 else []
    top = most or max((value for value in last if value is not None), default=0.0)
    blocks = (
        " " if value is None else _BLOCKS[round(min(1.0, value / top if top else 0.0) * (len(_BLOCKS) - 1))]
        for value in last
    )
    return Text("".join(blocks), style="cyan")


def _bar(share: float | None, width: int) -> Text:
    """A share (0 to 1) as a bar and in percent."""
    if share is None:
        return Text(_NONE)
    full = round(share * width)
    style = "red" if share > 0.95 else "yellow" if share > 0.8 else "green"
    bar = Text.assemble(("█" * full, style), ("░" * (width - full), "dim"), " " if width else "")
    return bar.append(f"{share:4.0%}" if width else f"{share:.0%}")


def _count(number: int | None) -> str:
    return _NONE if number is None else f"{number:,}"


def _rate(last: Change | None, name: str) -> str:
    rate = last.per_second(name) if last is not None else None
    return _NONE if rate is None else f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


def _per_second(last: Change | None, name: str) -> str:
    rate = _rate(last, name)
    return rate if rate == _NONE else f"{rate}/s"


def _latency(what: str, over: Change, name: str) -> str:
    p50, p95 = (_seconds(over.quantile(name, share)) for share in (0.5, 0.95))
    return f"{what} p50 {p50}, p95 {p95}"


def _hits(change: Change | None) -> float | None:
    return None if change is None else change.ratio("hit_tokens", "requested_tokens")


def _share(share: float | None) -> str:
    return _NONE if share is None else f"{share:.0%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return _NONE
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1000:.1f} ms" if value < 0.01 else f"{value * 1000:.0f} ms"


def _bytes(rate: float | None) -> str:
    if rate is None:
        return _NONE
    return f"{rate / 1e9:.1f} GB/s" if rate >= 1e9 else f"{rate / 1e6:.1f} MB/s"
