"""Terminal output: the progress of `up` and `down`, the status table, doctor's findings, coloured logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dynamoctl.cli.output import console
from dynamoctl.humanize import count, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from dynamoctl.answers.status import LoadStatus, StatusAnswer
    from dynamoctl.operations.doctor import CheckResult
    from dynamoctl.operations.logs import Line
    from dynamoctl.planner.plan import DeploymentPlan
    from dynamoctl.state import DeploymentState

STYLE = {
    "ready": "green",
    "ok": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "backoff": "yellow",
    "unresponsive": "bold red",
    "degraded": "yellow",
    "failed": "bold red",
    "unsupervised": "bold red",
    "stopped": "dim",
    "pending": "dim",
    "warning": "yellow",
    "error": "bold red",
}


# Width of tables without a terminal, wide enough that nothing is cut off.
WIDE = 240


class Display:
    """Progress output: live on a terminal, plain lines elsewhere, nothing if `quiet`."""

    def __init__(self, quiet: bool, transient: bool = False) -> None:
        from rich.live import Live

        self.console = console()
        self.quiet = quiet
        self.live: Live | None = None
        if not quiet and self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=8, transient=transient)

    def __enter__(self) -> Any:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, text: str) -> None:
        """Print one plain line, unless the display is live or quiet."""
        if not self.quiet and self.live is None:
            self.console.print(text, markup=False)


class UpDisplay(Display):
    """The units' phases and times while `up` waits."""

    def __init__(self, plan: DeploymentPlan, quiet: bool) -> None:
        super().__init__(quiet)
        self._plan = plan
        self._printed: dict[str, str] = {}
        self._began = time.time()

    def progress(self, what: str, fraction: float) -> None:
        """Show the progress of the built-in model's conversion; `fraction` is 0 to 1."""
        if self.live is None:
            if self._printed.get("model") != what:
                self._printed["model"] = what
                self.say(f"preparing the model: {what}")
            return
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = Table.grid(padding=(0, 1))
        row.add_row("preparing the model", ProgressBar(100, fraction * 100, width=30), what)
        self.live.update(row)

    def state(self, state: DeploymentState) -> None:
        """Show a new state of the units."""
        if self.live is not None:
            self.live.update(self._table(state))
            return
        for unit in state.units:
            # A frontend that is ready may still wait, for units on another host for example.
            words = unit.phase or unit.state if unit.state in ("starting", "ready") else unit.state
            if words != "pending" and self._printed.get(unit.name) != words:
                self._printed[unit.name] = words
                since = duration(time.time() - state.created_at)
                self.say(f"{since:>8}  {unit.name}: {words}")

    def _table(self, state: DeploymentState) -> RenderableType:
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        now = time.time()
        for unit in state.units:
            mark: RenderableType = Text("-", style="dim")
            if unit.state == "starting" or unit.phase:
                mark = Spinner("dots", style="yellow")
            elif unit.state == "ready":
                mark = Text("✓", style="green")
            elif unit.state == "failed":
                mark = Text("✗", style="bold red")
            place = ",".join(str(gpu) for gpu in unit.gpus)
            took = (unit.ready_at or now) - unit.started_at if unit.started_at else 0.0
            words = unit.phase or unit.state
            table.add_row(
                mark,
                unit.name,
                f"GPU {place}" if place else "",
                Text(words, style=STYLE.get(words, "")),
                duration(took) if took else "",
            )
        return table


class DownDisplay(Display):
    """The units that still run while `down` waits."""

    def state(self, state: DeploymentState) -> None:
        """Show a new state of the units."""
        gone = ("stopped", "pending", "failed")
        left = [unit.name for unit in state.units if unit.state not in gone]
        if self.live is not None:
            from rich.spinner import Spinner

            words = ", ".join(left) or "checking that nothing is left"
            self.live.update(Spinner("dots", f" stopping {words}" if left else f" {words}"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.update("")
            self.live.transient = True
        super().__exit__(kind, error, trace)


def draw_status(answer: StatusAnswer) -> None:
    """Print one deployment's status to stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dynamoctl.operations.status import not_running

    on_terminal = sys.stdout.isatty()
    width = None if on_terminal else WIDE
    # With emoji, rich would import a table of 3,600 of them.
    out = Console(emoji=False, highlight=False, soft_wrap=not on_terminal, width=width)
    if not answer.units:
        out.print(not_running(answer.name), markup=False)
        return
    out.print(head(answer))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    # Columns in which all units have the normal value are left out, so that the table fits 80 columns.
    on_gpus = any(unit.gpus for unit in answer.units)
    any_unhealthy = any(unit.health not in (None, "ok") for unit in answer.units)
    any_restarted = any(unit.restarts for unit in answer.units)
    columns = ["UNIT", "STATE", "PID", *(("GPU", "GPU MEMORY") if on_gpus else ()), "MEMORY", "UPTIME"]
    columns += ["RESTARTS"] if any_restarted else []
    columns += ["HEALTH"] if any_unhealthy else []
    for column in columns:
        table.add_column(column, no_wrap=column != "HEALTH")
    for unit in answer.units:
        words = unit.state if not unit.phase else f"{unit.state}: {unit.phase}"
        health = unit.health or "-"
        cells: dict[str, str | Text] = {
            "UNIT": unit.name,
            "STATE": Text(words, style=STYLE.get(unit.state, "")),
            "PID": str(unit.pid or "-"),
            "GPU": ",".join(str(gpu) for gpu in unit.gpus) or "-",
            "GPU MEMORY": gib(unit.gpu_memory_mib),
            "MEMORY": gib(unit.memory_mib),
            "UPTIME": duration(unit.uptime_s) if unit.uptime_s is not None else "-",
            "RESTARTS": str(unit.restarts),
            "HEALTH": Text(health, style=STYLE.get(health, "" if health == "-" else "red")),
        }
        table.add_row(*(cells[column] for column in columns))
    out.print(table)
    if (change := answer.change) is not None:
        out.print(f"change: {change.what}, {change.step}, for {duration(change.seconds)}", markup=False)
    if answer.load:
        _draw_load(out, answer.load)
    if answer.cache:
        cache = answer.cache
        rate = f" ({cache.hit_rate:.0%})" if cache.hit_rate is not None else ""
        asked = f"{cache.requested_tokens:,} tokens that the engine's own cache did not have"
        out.print(f"LMCache: {cache.hit_tokens:,} of {asked}{rate}")
    if answer.transfers and answer.mode == "disagg":
        moved = answer.transfers
        out.print(f"KV transfers: {moved.count:,}, {moved.bytes / 1e6:,.1f} MB, {moved.failed} failed")
    for gpu in answer.gpus:
        used, total = gpu.memory_used_mib / 1024, gpu.memory_total_mib / 1024
        busy = f", busy {gpu.utilization:.0%}" if gpu.utilization is not None else ""
        out.print(f"GPU {gpu.gpu}: {used:.1f} of {total:.1f} GiB in use{busy}", markup=False)
    if names := {name: None for unit in answer.units for name in unit.patches}:
        out.print(f"patches: {', '.join(names)}")
    if waiting := [f"{unit.name} ({unit.standby})" for unit in answer.units if unit.standby]:
        out.print(f"standbys: {', '.join(waiting)}")
    for one in answer.remote or ():
        out.print(f"on another host: {one.component} at {one.address}", markup=False)
    for line in troubles(answer):
        out.print(line)


def _draw_load(out: Console, load: LoadStatus) -> None:
    running, waiting = load.requests_running, load.requests_waiting
    now = f"{running or 0:,} running, {waiting or 0:,} waiting" if running is not None else ""
    finished = load.requests_total
    since = ""
    if finished is not None:
        since = f"{finished:,} finished, {load.failed_requests_total or 0:,} of them failed{by_type(load)}"
    if moved := load.moved_requests_total:
        since += f", {moved:,} moved"
    if now or since:
        out.print(f"requests: {', '.join(filter(None, (now, since)))}")
    prompt, generated = load.prompt_tokens_total, load.generation_tokens_total
    if prompt or generated:
        out.print(f"tokens: {prompt or 0:,} in prompts, {generated or 0:,} generated")


def by_type(load: LoadStatus) -> str:
    """The types of the failed requests, to be put after their number."""
    types = ", ".join(f"{number:,} {name}" for name, number in (load.failed_requests_by_type or {}).items())
    return f" ({types})" if types else ""


def head(answer: StatusAnswer) -> Text:
    """A deployment's name, state, mode, model and endpoint, on one line."""
    from rich.text import Text

    return Text.assemble(
        (answer.name, "bold"),
        "  ",
        (answer.state, STYLE.get(answer.state, "")),
        f"  {answer.mode}  {answer.model}  {answer.endpoint or 'frontend on another host'}",
    )


def troubles(answer: StatusAnswer) -> list[Text]:
    """A deployment's error with its hint, and its warnings."""
    from rich.text import Text

    lines = []
    if answer.error:
        lines.append(Text.assemble(("error: ", "bold red"), answer.error.message))
        lines += [Text(f"  {line}") for line in answer.error.hint.splitlines()]
    return lines + [Text.assemble(("warning: ", "yellow"), warning) for warning in answer.warnings]


def gib(mib: int | None) -> str:
    """An amount of memory in MiB as GiB, for people."""
    return f"{mib / 1024:.1f} GiB" if mib is not None else "-"


class CheckProgress(Display):
    """The check that `doctor` runs now; nothing of it stays on the screen."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet, transient=True)

    def check(self, name: str) -> None:
        """Show the next check."""
        if self.live is not None:
            from rich.spinner import Spinner

            self.live.update(Spinner("dots", f" checking: {name}", style="yellow"))


def draw_findings(results: Sequence[CheckResult]) -> None:
    """Print the results of `doctor` to stdout: a line each, and below it why it matters and how to fix it."""
    from rich.console import Console
    from rich.text import Text

    from dynamoctl.checks.base import Level

    out = Console(highlight=False, soft_wrap=True)
    width = max(len(result.check) for result in results)
    indent = " " * (9 + width + 2)
    for result in results:
        finding, level = result.finding, result.finding.level.label
        out.print(
            Text.assemble((f"{level:<9}", STYLE[level]), (f"{result.check:<{width}}  ", "bold"), finding.what)
        )
        if finding.why:
            out.print(Text(f"{indent}why: {finding.why}"))
        for line in finding.fix.splitlines():
            out.print(Text(f"{indent}fix: {line}"))
    levels = [result.finding.level for result in results]
    errors, warnings = levels.count(Level.ERROR), levels.count(Level.WARNING)
    out.print()
    if errors:
        out.print(Text(f"`up` would refuse: {count(errors, 'error')}", style="bold red"))
    else:
        also = f", with {count(warnings, 'warning')}" if warnings else ""
        out.print(Text(f"`up` would start here{also}", style="green"))


class LogPrinter:
    """Prints log lines to stdout, each after its unit's name if there are several units.

    Without a terminal, or with NO_COLOR, lines are printed as plain text, because rich is slow.
    """

    # Colours of the units. Red and yellow are reserved for errors and warnings.
    _COLOURS = ("cyan", "magenta", "green", "blue", "bright_cyan", "bright_magenta", "bright_green")
    _LEVELS = ((40, "bold red"), (30, "yellow"))

    def __init__(
        self, units: Sequence[str], several: bool, at_once: bool, out: Console | None = None
    ) -> None:
        from rich.console import Console

        self._at_once = at_once
        self._several = several
        self._units = list(units)
        self._out = out or Console(highlight=False, soft_wrap=True)

    def line(self, line: Line) -> None:
        """Print one line."""
        if line.unit not in self._units:
            self._units.append(line.unit)
        name = f"{line.unit:<{max(map(len, self._units))}}  " if self._several else ""
        if self._out.color_system is None or self._out.no_color:
            from dynamoctl.logs.fields import plain

            print(name + plain(line.text), file=self._out.file, flush=self._at_once)
            return
        from rich.text import Text

        text = Text.from_ansi(line.text)
        if line.word and line.level:
            style = next((style for level, style in self._LEVELS if line.level >= level), "")
            text.stylize(style, *line.word)
        colour = self._COLOURS[self._units.index(line.unit) % len(self._COLOURS)]
        self._out.print(Text.assemble((name, colour), text))
