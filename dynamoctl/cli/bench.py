"""`dynamoctl bench`: what a running deployment does under a workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamoctl.cli.bench_flags import (
    Config,
    Forgetting,
    LoadOptions,
    OutputTokens,
    Plot,
    SharedOptions,
    numbers,
    whole_numbers,
)
from dynamoctl.cli.bench_results import kept, require_writable, say_if_interrupted, show_answer
from dynamoctl.cli.bench_results import show as show_result
from dynamoctl.cli.options import Json, Name, takes, takes_name
from dynamoctl.errors import DynamoctlError

if TYPE_CHECKING:
    from dynamoctl.bench.workloads import Workload
    from dynamoctl.operations.bench import Forget

app = typer.Typer(
    help="Measure what the cache and the disaggregation buy: latencies, throughput, hits, transfers.",
    no_args_is_help=True,
)


@app.command("reuse")
@takes("how", LoadOptions, concurrency=1)
@takes_name
def reuse(
    how: LoadOptions,
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
@takes("how", LoadOptions, concurrency=4)
@takes_name
def multi_turn(
    how: LoadOptions,
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
@takes("how", LoadOptions, concurrency=4)
@takes_name
def shared_prefix(
    how: LoadOptions,
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
@takes("how", LoadOptions, concurrency=4)
@takes_name
def random(
    how: LoadOptions,
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
@takes("how", LoadOptions, concurrency=1)
@takes("across", SharedOptions)
def compare(
    across: SharedOptions,
    how: LoadOptions,
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
    from dynamoctl.cli.draw_bench import CompareDisplay
    from dynamoctl.operations.compare import compare as measure
    from dynamoctl.operations.planning import find_config

    require_writable(how.output, how.plot)
    chosen, workload, common, load = parse(variants), across.workload(), across.common(), how.load()
    with kept(how) as keep, CompareDisplay(quiet=how.json) as display:
        done = measure(
            chosen, common, find_config(config), workload, how.some_seed(), load, across.forget,
            across.repeat, display.watching(keep),
        )  # fmt: skip
    raise typer.Exit(show_answer(done.answer, done.failure, how))


@app.command("tune")
@takes("how", LoadOptions, concurrency=1)
@takes("across", SharedOptions, without=("engine", "lmcache_cpu_gb"))
def tune(
    across: SharedOptions,
    how: LoadOptions,
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
    from dynamoctl.cli.draw_bench import CompareDisplay
    from dynamoctl.operations.tune import tune as sweep

    require_writable(how.output, how.plot)
    workload = across.workload()
    chunks = whole_numbers("--chunk-sizes", chunk_sizes)
    common, load = across.common(), how.load()
    with kept(how) as keep, CompareDisplay(quiet=how.json) as display:
        done = sweep(
            config, common, chunks, numbers("--cpu-gb", cpu_gb or ""), workload, how.some_seed(),
            load, across.forget, across.repeat, write, display.watching(keep),
        )  # fmt: skip
    raise typer.Exit(show_answer(done.answer, done.compared.failure, how))


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What --output has written.")],
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Show a result again, or draw it: the plot can be made on another machine than the measurement."""
    from dynamoctl.operations.bench import read

    require_writable(None, plot)
    kind, body = read(file)
    error = body.pop("error", None)
    failure = DynamoctlError(error["message"], error["hint"]) if error else None
    raise typer.Exit(show_result(kind, body, failure, None, plot, json))


def _run(name: str, workload: Workload, how: LoadOptions, forget: Forget = "reset") -> int:
    """Measure one deployment, show it, and give back the exit code."""
    from dynamoctl.cli.draw_bench import BenchDisplay
    from dynamoctl.operations import bench

    require_writable(how.output, how.plot)
    load = how.load()
    ended = "the load generator was ended; the deployment goes on"
    with say_if_interrupted(ended, how.json), BenchDisplay(quiet=how.json) as display:
        done = bench.run(name, workload, how.some_seed(), load, forget, display.progress)
    return show_answer(done.answer, done.failure, how)
