"""`dynamoctl bench`: what a running deployment does under a workload."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, Name, takes
from dynamoctl.errors import DynamoctlError, SpecError

if TYPE_CHECKING:
    from dynamoctl.bench.workloads import Workload
    from dynamoctl.operations.bench import Forget
    from dynamoctl.operations.compare import Compared
    from dynamoctl.operations.load_generators import Load

app = typer.Typer(
    help="Measure what the cache and the disaggregation buy: latencies, throughput, hits, transfers.",
    no_args_is_help=True,
)

_SENDING = "Sending"
_SHOWING = "Output"
_TAKEN_DOWN = "broken off; what was up for it has been taken down"

Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, help="Requests at a time, at most.", rich_help_panel=_SENDING)
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--request-rate",
        min=0.001,
        help="Requests that begin in a second, on average; without it each begins as soon as it may.",
        rich_help_panel=_SENDING,
    ),
]
Tool = Annotated[
    Literal["vllm", "aiperf"],
    typer.Option(
        help="What sends them: vllm bench serve, or AIPerf in an environment of its own.",
        rich_help_panel=_SENDING,
    ),
]
Aiperf = Annotated[
    Path | None,
    typer.Option(
        metavar="PROGRAM",
        help="AIPerf's program; without it, AIPerf is installed into dynamoctl's cache at first.",
        rich_help_panel=_SENDING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="The same one makes the same prompts; without it they are new, and no cache knows them.",
        rich_help_panel=_SENDING,
    ),
]
OutputTokens = Annotated[int, typer.Option(min=1, help="The length of an answer.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the JSON there too.", rich_help_panel=_SHOWING
    ),
]


Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw FILE.png and FILE.svg (needs the extra bench).",
        rich_help_panel=_SHOWING,
    ),
]
Forgetting = Annotated[
    Literal["reset", "fill"],
    typer.Option(
        help="How the engines' own prefix caches lose documents: emptied, or by more than they hold."
    ),
]
Kind = Annotated[
    Literal["reuse", "multi-turn", "shared-prefix", "random"],
    typer.Option("--workload", help="What is sent.", rich_help_panel=_SENDING),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SIZE=N",
        help="A size of the workload, as in documents=8; the names are the flags of its command.",
        rich_help_panel=_SENDING,
    ),
]
Repeat = Annotated[
    int,
    typer.Option(
        min=1,
        help="Rounds through all variants, every other one backwards.",
        rich_help_panel=_SENDING,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="A TOML for all; without it, dynamoctl.toml if it is there.",
        autocompletion=completers.toml_files,
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="As for up.", autocompletion=completers.models)
]
Device = Annotated[Literal["auto", "cuda", "cpu"] | None, typer.Option(help="As for up.")]
Gpus = Annotated[str | None, typer.Option("--gpus", "-g", help="As for up.", autocompletion=completers.gpus)]
Engine = Annotated[Literal["vllm", "mocker"] | None, typer.Option(help="As for up.")]
Port = Annotated[int | None, typer.Option("--port", "-p", help="As for up.")]
VllmArgs = Annotated[
    str | None,
    typer.Option(metavar="ARGUMENTS", help="What up takes after --, in one word: '--max-model-len 4096'."),
]


@dataclass(frozen=True)
class How:
    """What every measurement is told beside its workload."""

    concurrency: Concurrency
    request_rate: Rate = None
    tool: Tool = "vllm"
    aiperf: Aiperf = None
    seed: Seed = None
    output: Output = None
    plot: Plot = None
    json: Json = False

    def load(self) -> Load:
        """What sends the requests, and how many; AIPerf is installed where it is wanted."""
        from dynamoctl.cli.output import note
        from dynamoctl.operations.load_generators import Load, find_aiperf

        program = None
        if self.tool == "aiperf" or self.aiperf is not None:
            program = find_aiperf(
                self.aiperf, lambda folder: note(f"installing AIPerf into {folder} (about 1 GB)")
            )
        return Load(self.concurrency, self.request_rate, program)

    def some_seed(self) -> int:
        """The one that was given, or a new one."""
        from secrets import randbelow

        return randbelow(2**31) if self.seed is None else self.seed


@dataclass(frozen=True)
class Across:
    """What is told to a measurement of several deployments: what they have in common, and the workload."""

    model: Model = None
    device: Device = None
    gpus: Gpus = None
    engine: Engine = None
    port: Port = None
    lmcache_cpu_gb: Annotated[str | None, typer.Option(metavar="SIZE", help="As for up.")] = None
    vllm_args: VllmArgs = None
    kind: Kind = "reuse"
    sizes: Sizes = None
    repeat: Repeat = 1
    forget: Forgetting = "reset"

    def common(self) -> dict[str, Any]:
        """What all have in common, by the spec's names."""
        from dynamoctl.cli.plan_flags import words

        return {
            "model": self.model,
            "device": self.device,
            "gpus": self.gpus,
            "engine": self.engine,
            "port": self.port,
            "lmcache.cpu_gb": self.lmcache_cpu_gb,
            "engine_args": words("--vllm-args", self.vllm_args),
        }

    def workload(self) -> Workload:
        """What is sent."""
        from dynamoctl.bench import workloads

        return workloads.make(self.kind, self.sizes or [])


@app.command("reuse")
@takes("how", How, concurrency=1)
def reuse(
    how: How,
    name: Name = "default",
    documents: Annotated[int, typer.Option(min=1, help="How many documents.")] = 8,
    document_tokens: Annotated[int, typer.Option(min=1, help="The length of each.")] = 1024,
    passes: Annotated[int, typer.Option(min=1, help="How often each is asked about.")] = 2,
    output_tokens: OutputTokens = 16,
    forget: Forgetting = "reset",
) -> None:
    """Ask about long documents, and again when the engines' own prefix caches have lost them.

    The first pass computes and stores; from the second on, LMCache gives back what it has.
    """
    from dynamoctl.bench.workloads import Reuse

    workload = Reuse(documents, document_tokens, passes, output_tokens)
    raise typer.Exit(_run(name, workload, how, forget))


@app.command("multi-turn")
@takes("how", How, concurrency=4)
def multi_turn(
    how: How,
    name: Name = "default",
    conversations: Annotated[int, typer.Option(min=1, help="How many, side by side.")] = 4,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 3,
    first_tokens: Annotated[
        int, typer.Option(min=1, help="The length of the first question, system prompt included.")
    ] = 512,
    turn_tokens: Annotated[int, typer.Option(min=1, help="The length of each later question.")] = 64,
    output_tokens: OutputTokens = 32,
) -> None:
    """Go on with conversations: each turn is sent with all that was said before."""
    from dynamoctl.bench.workloads import MultiTurn

    workload = MultiTurn(conversations, turns, first_tokens, turn_tokens, output_tokens)
    raise typer.Exit(_run(name, workload, how))


@app.command("shared-prefix")
@takes("how", How, concurrency=4)
def shared_prefix(
    how: How,
    name: Name = "default",
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 16,
    prefixes: Annotated[int, typer.Option(min=1, help="How many beginnings they have.")] = 2,
    prefix_tokens: Annotated[int, typer.Option(min=1, help="The length of a beginning.")] = 512,
    suffix_tokens: Annotated[int, typer.Option(min=1, help="The length of what follows it.")] = 64,
    output_tokens: OutputTokens = 32,
) -> None:
    """Send requests that begin alike, as with one system prompt for all."""
    from dynamoctl.bench.workloads import SharedPrefix

    workload = SharedPrefix(requests, prefixes, prefix_tokens, suffix_tokens, output_tokens)
    raise typer.Exit(_run(name, workload, how))


@app.command("random")
@takes("how", How, concurrency=4)
def random(
    how: How,
    name: Name = "default",
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 16,
    input_tokens: Annotated[int, typer.Option(min=1, help="The length of each prompt.")] = 512,
    output_tokens: OutputTokens = 32,
) -> None:
    """Send requests that have nothing in common: what is paid where no cache helps."""
    from dynamoctl.bench.workloads import Random

    workload = Random(requests, input_tokens, output_tokens)
    raise typer.Exit(_run(name, workload, how))


@app.command("compare")
@takes("how", How, concurrency=1)
@takes("across", Across)
def compare(
    across: Across,
    how: How,
    variants: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANT...",
            help="agg, agg-no-lmcache, agg-inproc, agg-mp, disagg, disagg-no-lmcache, chunk-N, router-MODE"
            " (two workers), or a TOML's path.",
        ),
    ],
    config: Config = None,
) -> None:
    """Bring up one deployment after another, measure each with the same prompts, and take it down.

    The ratios are to the first variant. One that fails is named, and the others go on.

    Broken off, it shows what has been measured, which is also in the file of --output then.
    """
    from dynamoctl.bench.variants import parse
    from dynamoctl.cli.draw_bench import CompareDisplay, draw_compare
    from dynamoctl.operations.compare import compare as measure
    from dynamoctl.operations.planning import find_config

    _see_to_files(how.output, how.plot)
    chosen, workload, common, load = parse(variants), across.workload(), across.common(), how.load()
    with _kept(how) as keep, CompareDisplay(quiet=how.json) as display:
        done = measure(
            chosen, common, find_config(config), workload, how.some_seed(), load, across.forget,
            across.repeat, display.watching(keep),
        )  # fmt: skip
    raise typer.Exit(
        _show("bench-compare", done.as_json(), done.failure, draw_compare, how.output, how.plot, how.json)
    )


@app.command("tune")
@takes("how", How, concurrency=1)
@takes("across", Across, without=("engine", "lmcache_cpu_gb"))
def tune(
    across: Across,
    how: How,
    config: Config = None,
    chunk_sizes: Annotated[
        str, typer.Option(metavar="TOKENS,...", help="Chunk sizes to try.")
    ] = "128,256,512,1024",
    cpu_gb: Annotated[
        str | None,
        typer.Option(metavar="GIB,...", help="Sizes of LMCache's CPU memory to try; without it, it stays."),
    ] = None,
    write: Annotated[bool, typer.Option("--write/--no-write", help="Set the best in the TOML.")] = True,
) -> None:
    """Find the chunk size, and the size of the cache, that suit a workload, and set them in the TOML.

    The best has the shortest time to the first token once the cache knows the prompts. What is within 5 % of
    it is as good; of those, the one with the least memory is taken.
    """
    from dynamoctl.cli.draw_bench import CompareDisplay, draw_tune
    from dynamoctl.operations.tune import tune as sweep

    _see_to_files(how.output, how.plot)
    workload = across.workload()
    chunks = _chunk_sizes(chunk_sizes)
    common, load = across.common(), how.load()
    with _kept(how) as keep, CompareDisplay(quiet=how.json) as display:
        done = sweep(
            config, common, chunks, _numbers("--cpu-gb", cpu_gb or ""), workload, how.some_seed(),
            load, across.forget, across.repeat, write, display.watching(keep),
        )  # fmt: skip
    failure = done.compared.failure
    raise typer.Exit(_show("bench-tune", done.as_json(), failure, draw_tune, how.output, how.plot, how.json))


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What --output has written.")],
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Show a result again, or draw it: the plot can be made on another machine than the measurement."""
    from dynamoctl.cli import draw_bench
    from dynamoctl.operations.bench import read

    _see_to_files(None, plot)
    kind, body = read(file)
    error = body.pop("error", None)
    failure = DynamoctlError(error["message"], error["hint"]) if error else None
    draw = {
        "bench": draw_bench.draw_bench,
        "bench-compare": draw_bench.draw_compare,
        "bench-tune": draw_bench.draw_tune,
    }[kind]
    raise typer.Exit(_show(kind, body, failure, draw, None, plot, json))


def _run(name: str, workload: Workload, how: How, forget: Forget = "reset") -> int:
    """Measure one deployment, show it, and give back the exit code."""
    from dynamoctl.cli.draw_bench import BenchDisplay, draw_bench
    from dynamoctl.operations import bench

    _see_to_files(how.output, how.plot)
    load = how.load()
    ended = "the load generator was ended; the deployment goes on"
    with _if_broken_off(ended, how.json), BenchDisplay(quiet=how.json) as display:
        done = bench.run(name, workload, how.some_seed(), load, forget, display.progress)
    return _show("bench", done.as_json(), done.failure, draw_bench, how.output, how.plot, how.json)


def _show(
    kind: str,
    body: dict[str, Any],
    failure: DynamoctlError | None,
    draw: Callable[[dict[str, Any]], None],
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> int:
    """A result to a file, to plots and to stdout; its exit code. What cannot be written is shown still."""
    from dynamoctl.cli.output import emit, fail, note, schema
    from dynamoctl.operations import bench

    said = body | ({"error": failure.as_json()} if failure else {})
    try:
        if output is not None:
            bench.write(output, {"schema": schema(kind), "ok": failure is None, **said})
        if plot is not None:
            from dynamoctl.bench import plots

            for path in plots.save(kind, body, plot):
                note(f"drew {path}")
    except DynamoctlError as error:
        failure = failure or error
        said = body | {"error": failure.as_json()}
    if as_json:
        emit(schema(kind), said, ok=failure is None)
        return failure.exit_code if failure else 0
    draw(body)
    return fail("bench", failure, as_json=False) if failure else 0


@contextmanager
def _if_broken_off(words: str, as_json: bool) -> Iterator[None]:
    """Say what has become of what ran, where the user breaks it off."""
    from dynamoctl.cli.output import note

    try:
        yield
    except KeyboardInterrupt:
        if not as_json:
            note(words)
        raise


@contextmanager
def _kept(how: How) -> Iterator[Callable[[Compared], None]]:
    """Hours of measuring are not lost where the user breaks them off, or the machine goes.

    What is yielded takes all that has been measured so far.
    """
    from dynamoctl.cli.draw_bench import draw_compare
    from dynamoctl.cli.output import note, schema
    from dynamoctl.operations.bench import write

    latest: list[Compared] = []
    is_written = False
    unfinished = DynamoctlError("not finished", "it was broken off, or goes on still").as_json()

    def keep(now: Compared) -> None:
        nonlocal is_written
        latest[:] = [now]
        if how.output is not None:
            body = {"schema": schema("bench-compare"), "ok": False, **now.as_json(), "error": unfinished}
            is_written = False
            with suppress(DynamoctlError):  # if it cannot be written at the end either, that is told
                write(how.output, body)
                is_written = True

    with _if_broken_off(_TAKEN_DOWN, how.json):
        try:
            yield keep
        except KeyboardInterrupt:
            if latest and not how.json:
                draw_compare(latest[0].as_json())
            if is_written:
                note(f"what was measured is in {how.output}")
            elif latest and how.output is not None:
                note(f"what was measured is not in {how.output}, which cannot be written")
            raise


def _see_to_files(output: Path | None, plot: Path | None) -> None:
    """Say before anything is measured that it could not be written or drawn."""
    for path in filter(None, (output, plot)):
        folder = path.absolute().parent
        if not folder.is_dir():
            raise SpecError(f"there is no folder {path.parent}", "make it first, or name another file")
        if path == output and path.is_dir():
            raise SpecError(f"{path} is a folder", "name a file in it")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SpecError(f"cannot write to {path.parent}: {error.strerror}", "name another file") from None
    if plot is not None:
        from dynamoctl.bench import plots

        plots.require()


def _chunk_sizes(given: str) -> list[int]:
    numbers = _numbers("--chunk-sizes", given)
    if not numbers or any(one != int(one) for one in numbers):
        raise SpecError(f"--chunk-sizes: '{given}' are no whole numbers", "as in: --chunk-sizes 128,256")
    return [int(one) for one in numbers]


def _numbers(flag: str, given: str) -> list[float]:
    """Each of them once."""
    try:
        numbers = [float(word) for word in given.split(",") if word.strip()]
    except ValueError:
        numbers = [0.0]
    if any(not 0 < one < 1e9 for one in numbers):
        raise SpecError(f"{flag}: '{given}' are no numbers above 0", f"as in: {flag} 128,256")
    return list(dict.fromkeys(numbers))
