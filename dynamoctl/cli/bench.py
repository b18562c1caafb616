"""`dynamoctl bench`: what a running deployment does under a workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dynamoctl.cli.options import Json, Name

if TYPE_CHECKING:
    from dynamoctl.bench.workloads import Workload
    from dynamoctl.operations.bench import Forget
    from dynamoctl.operations.load_generators import Load

app = typer.Typer(
    help="Measure what the cache and the disaggregation buy: latencies, throughput, hits, transfers.",
    no_args_is_help=True,
)

_SENDING = "Sending"
_SHOWING = "Output"

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


@app.command("reuse")
def reuse(
    name: Name = "default",
    documents: Annotated[int, typer.Option(min=1, help="How many documents.")] = 8,
    document_tokens: Annotated[int, typer.Option(min=1, help="The length of each.")] = 1024,
    passes: Annotated[int, typer.Option(min=1, help="How often each is asked about.")] = 2,
    output_tokens: OutputTokens = 16,
    forget: Annotated[
        Literal["reset", "fill"],
        typer.Option(
            help="How the engines' own prefix caches lose them: emptied, or by more than they hold."
        ),
    ] = "reset",
    concurrency: Concurrency = 1,
    request_rate: Rate = None,
    seed: Seed = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Ask about long documents, and again when the engines' own prefix caches have lost them.

    The first pass computes and stores; from the second on, LMCache gives back what it has.
    """
    from dynamoctl.bench.workloads import Reuse
    from dynamoctl.operations.load_generators import Load

    workload = Reuse(documents, document_tokens, passes, output_tokens)
    raise typer.Exit(_run(name, workload, seed, Load(concurrency, request_rate), forget, output, json))


@app.command("multi-turn")
def multi_turn(
    name: Name = "default",
    conversations: Annotated[int, typer.Option(min=1, help="How many, side by side.")] = 4,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 3,
    first_tokens: Annotated[
        int, typer.Option(min=1, help="The length of the first question, system prompt included.")
    ] = 512,
    turn_tokens: Annotated[int, typer.Option(min=1, help="The length of each later question.")] = 64,
    output_tokens: OutputTokens = 32,
    concurrency: Concurrency = 4,
    request_rate: Rate = None,
    seed: Seed = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Go on with conversations: each turn is sent with all that was said before."""
    from dynamoctl.bench.workloads import MultiTurn
    from dynamoctl.operations.load_generators import Load

    workload = MultiTurn(conversations, turns, first_tokens, turn_tokens, output_tokens)
    raise typer.Exit(_run(name, workload, seed, Load(concurrency, request_rate), "reset", output, json))


@app.command("shared-prefix")
def shared_prefix(
    name: Name = "default",
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 16,
    prefixes: Annotated[int, typer.Option(min=1, help="How many beginnings they have.")] = 2,
    prefix_tokens: Annotated[int, typer.Option(min=1, help="The length of a beginning.")] = 512,
    suffix_tokens: Annotated[int, typer.Option(min=1, help="The length of what follows it.")] = 64,
    output_tokens: OutputTokens = 32,
    concurrency: Concurrency = 4,
    request_rate: Rate = None,
    seed: Seed = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Send requests that begin alike, as with one system prompt for all."""
    from dynamoctl.bench.workloads import SharedPrefix
    from dynamoctl.operations.load_generators import Load

    workload = SharedPrefix(requests, prefixes, prefix_tokens, suffix_tokens, output_tokens)
    raise typer.Exit(_run(name, workload, seed, Load(concurrency, request_rate), "reset", output, json))


@app.command("random")
def random(
    name: Name = "default",
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 16,
    input_tokens: Annotated[int, typer.Option(min=1, help="The length of each prompt.")] = 512,
    output_tokens: OutputTokens = 32,
    concurrency: Concurrency = 4,
    request_rate: Rate = None,
    seed: Seed = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Send requests that have nothing in common: what is paid where no cache helps."""
    from dynamoctl.bench.workloads import Random
    from dynamoctl.operations.load_generators import Load

    workload = Random(requests, input_tokens, output_tokens)
    raise typer.Exit(_run(name, workload, seed, Load(concurrency, request_rate), "reset", output, json))


def _run(
    name: str,
    workload: Workload,
    seed: int | None,
    load: Load,
    forget: Forget,
    output: Path | None,
    as_json: bool,
) -> int:
    """Measure, show, and give back the exit code."""
    from secrets import randbelow

    from dynamoctl.cli.draw_bench import BenchDisplay, draw_bench
    from dynamoctl.cli.output import emit, fail, note, schema
    from dynamoctl.operations import bench

    try:
        with BenchDisplay(quiet=as_json) as display:
            done = bench.run(
                name, workload, randbelow(2**31) if seed is None else seed, load, forget, display.progress
            )
    except KeyboardInterrupt:
        if not as_json:
            note("the load generator was ended; the deployment goes on")
        raise
    failure = done.failure
    body = done.as_json() | ({"error": failure.as_json()} if failure else {})
    if output is not None:
        bench.write(output, {"schema": schema("bench"), "ok": failure is None, **body})
    if as_json:
        emit(schema("bench"), body, ok=failure is None)
        return failure.exit_code if failure else 0
    draw_bench(body)
    return fail("bench", failure, as_json=False) if failure else 0
