"""Open-loop load on an OpenAI-compatible endpoint: how do long prompts disturb short answers?

Two classes of request arrive at the same time, each as a Poisson process of its own rate: `long` (a long
document with a question, a short answer) and `short` (a small prompt, a longer answer). Requests are sent
when they are due, whether or not earlier ones have ended. A share of the long requests (`--reuse`) asks
another question about one of the first `--documents` documents, so that their KV cache can be reused; the
others bring a document of their own.

What is measured, for requests that succeeded:

- TTFT: from sending the request to its first chunk with a choice. The text of a chunk is not looked at: with
  dummy weights it may be empty.
- ITL: the gap between one such chunk and the next, of all requests together. `tokens_per_chunk` should be 1,
  else ITL is not the time of one token.
- Output tokens per second: tokens by the server's own count, over the time from the start to the last end.

A request fails if its status is not 200, its stream breaks or carries an error, or it ends without a reason
to finish. `sent_late_max_ms` says how late the worst request left: if it is large, this machine was too busy
to measure.

Arrivals and prompts depend on the arguments and `--seed` alone, so that two deployments get the same load. A
second run on the same deployment finds its prompts in the cache: start it anew, or take another seed.

    python benchmarks/mixed_load.py http://127.0.0.1:8000 MODEL --label agg --json agg.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2

DRAIN_S = 120.0  # how long requests in flight may take after the last arrival
TIMEOUT_S = 300.0
QUESTION_WORDS = 16  # the end of a long prompt, which differs from request to request

# Short and common: about one token each.
COMMON = """
    a about after all also and any are as at back be because but by can come could day do even first
    for from get give go good have he her him his how I if in into is it its just know like look make
    man may me more most my new no not now of on one only or other our out over people say see she so
    some take than that the their them then there these they think this time to two up us use want was
    way we well what when which who will with work would year you your
"""
WORDS = COMMON.split()


class Options(argparse.Namespace):
    """The command line."""

    url: str
    model: str
    duration_s: float
    long_rate: float
    long_tokens: int
    long_output: int
    short_rate: float
    short_tokens: int
    short_output: int
    reuse: float
    documents: int
    seed: int
    warm_up: int
    label: str
    json: Path | None


@dataclass(frozen=True)
class Request:
    """What is sent, and how many seconds after the start it is due."""

    kind: str
    due: float
    prompt: str
    max_tokens: int
    repeat: bool = False  # asks about a document that an earlier request brought


@dataclass
class Record:
    """What became of one request; times are of `time.perf_counter`."""

    request: Request
    scheduled: float
    sent: float = 0.0
    chunks: list[float] = field(default_factory=list)  # when each chunk with a choice came
    end: float = 0.0
    status: int | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    finished: bool = False
    error: str = ""

    def read(self, line: str, now: float) -> None:
        """Take in one line of the event stream."""
        name, _, value = line.partition(":")
        value = value.strip()
        if name == "event" and value == "error":
            self.error = "the stream carries an error"
        elif name == "" and value and self.error:  # Dynamo says what went wrong in a comment
            self.error += f": {value}"
        elif name == "data" and value != "[DONE]":
            chunk = json.loads(value)
            if problem := chunk.get("error"):
                self.error = f"the stream carries an error: {json.dumps(problem)}"
            if usage := chunk.get("usage"):
                self.prompt_tokens = usage["prompt_tokens"]
                self.output_tokens = usage["completion_tokens"]
            if choices := chunk.get("choices"):
                self.chunks.append(now)
                self.finished = self.finished or bool(choices[0].get("finish_reason"))


def generator(*names: object) -> random.Random:
    """A stream of random numbers that depends on these names alone."""
    return random.Random("/".join(map(str, names)))


def words(rng: random.Random, count: int) -> str:
    """As many random words."""
    return " ".join(rng.choices(WORDS, k=count))


def arrivals(rng: random.Random, rate: float, duration_s: float) -> Iterator[float]:
    """When the requests of a Poisson process are due; none if the rate is 0."""
    due = 0.0
    while rate and (due := due + rng.expovariate(rate)) < duration_s:
        yield due


def long_requests(options: Options, due_times: Sequence[float], name: str) -> Iterator[Request]:
    """Long prompts; some ask about an earlier document, if there is one yet."""
    rng = generator(options.seed, name, "long")
    documents: list[str] = []
    for due in due_times:
        repeat = rng.random() < options.reuse and bool(documents)
        if repeat:
            document = rng.choice(documents)
        else:
            document = words(rng, max(1, options.long_tokens - QUESTION_WORDS))
            if len(documents) < options.documents:
                documents.append(document)
        prompt = f"{document} {words(rng, QUESTION_WORDS)}"
        yield Request("long", due, prompt, options.long_output, repeat)


def short_requests(options: Options, due_times: Sequence[float], name: str) -> Iterator[Request]:
    """Small prompts, each of its own."""
    rng = generator(options.seed, name, "short")
    for due in due_times:
        yield Request("short", due, words(rng, options.short_tokens), options.short_output)


def schedule(options: Options) -> list[Request]:
    """The requests of the measurement, in the order of their arrival."""
    duration = options.duration_s
    long = list(arrivals(generator(options.seed, "arrivals", "long"), options.long_rate, duration))
    short = list(arrivals(generator(options.seed, "arrivals", "short"), options.short_rate, duration))
    requests = [*long_requests(options, long, "prompts"), *short_requests(options, short, "prompts")]
    return sorted(requests, key=lambda request: request.due)


def warm_up(options: Options) -> list[Request]:
    """Requests of both classes with prompts that the measurement does not use."""
    now = [0.0] * options.warm_up
    return [
        *long_requests(options, now if options.long_rate else [], "warm-up"),
        *short_requests(options, now if options.short_rate else [], "warm-up"),
    ]


async def event_lines(response: httpx2.Response) -> AsyncIterator[str]:
    """The lines of an event stream; `aiter_lines` would split at U+2028 and its like within a text too."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


async def ask(client: httpx2.AsyncClient, options: Options, record: Record) -> None:
    """Send one request and follow its answer to the end."""
    body = {
        "model": options.model,
        "prompt": record.request.prompt,
        "max_tokens": record.request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    record.sent = time.perf_counter()
    try:
        async with client.stream("POST", f"{options.url.rstrip('/')}/v1/completions", json=body) as response:
            record.status = response.status_code
            if record.status != 200:
                text = (await response.aread()).decode(errors="replace")
                record.error = f"HTTP {record.status}: {text[:300].strip()}"
                return
            async for line in event_lines(response):
                record.read(line, time.perf_counter())
        if not record.finished and not record.error:
            record.error = "the stream ended without a reason to finish"
    except Exception as error:  # whatever it was, this request failed and the load goes on
        record.error = f"{type(error).__name__}: {error}"
    finally:
        record.end = time.perf_counter()


async def measure(options: Options, requests: Sequence[Request]) -> tuple[list[Record], float]:
    """Warm up, send each request when it is due, wait for the answers: the records and the start."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT_S, limits=limits) as client:
        for request in warm_up(options):
            record = Record(request, time.perf_counter())
            await ask(client, options, record)
            if record.error:
                print(f"A warm-up request failed: {record.error}", file=sys.stderr)

        start = time.perf_counter()
        records: dict[asyncio.Task[None], Record] = {}
        for request in requests:
            record = Record(request, start + request.due)
            await asyncio.sleep(record.scheduled - time.perf_counter())
            records[asyncio.create_task(ask(client, options, record))] = record
        await asyncio.sleep(start + options.duration_s - time.perf_counter())

        _, pending = await asyncio.wait(records, timeout=DRAIN_S)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in pending:
            records[task].error = f"not done {DRAIN_S:g} s after the last arrival"
    return list(records.values()), start


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile, interpolated between the two nearest values; None if there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def mean(values: Sequence[float]) -> float | None:
    """The mean; None if there are no values."""
    return statistics.fmean(values) if values else None


def summary(records: Sequence[Record], total_s: float) -> dict[str, Any]:
    """The numbers of one class."""
    good = [record for record in records if not record.error]
    ttft = [record.chunks[0] - record.sent for record in good]
    itl = [1000 * (later - earlier) for record in good for earlier, later in pairwise(record.chunks)]
    tokens = sum(record.output_tokens for record in good)
    chunks = sum(len(record.chunks) for record in good)
    late = [1000 * (record.sent - record.scheduled) for record in records if record.sent]
    return {
        "requests": len(records),
        "failed": len(records) - len(good),
        "repeats": sum(record.request.repeat for record in records),
        "prompt_tokens_mean": mean([record.prompt_tokens for record in good]),
        "ttft_s": {**{f"p{p}": percentile(ttft, p) for p in (50, 90, 99)}, "mean": mean(ttft)},
        "itl_ms": {**{f"p{p}": percentile(itl, p) for p in (50, 90, 99)}, "max": max(itl, default=None)},
        "tokens_per_chunk": tokens / chunks if chunks else None,
        "output_tokens_per_s": tokens / total_s,
        "sent_late_max_ms": max(late, default=None),
        "total_s": total_s,
    }


def report(options: Options, records: Sequence[Record], start: float) -> dict[str, Any]:
    """What goes into the JSON file."""
    total_s = max(record.end for record in records) - start
    kinds = {kind: [r for r in records if r.request.kind == kind] for kind in ("long", "short")}
    return {
        "label": options.label,
        "arguments": vars(options),
        **{kind: summary(of_kind, total_s) for kind, of_kind in kinds.items()},
        "all": summary(records, total_s),
    }


def table(result: dict[str, Any]) -> str:
    """The report as plain text."""

    def cell(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    heads = [result["label"], "requests", "failed", "prompt", "TTFT s p50", "p90", "p99", "mean"]
    rows = [[*heads, "ITL ms p50", "p90", "p99", "max", "tokens/s"]]
    for kind in ("long", "short", "all"):
        numbers = result[kind]
        row = [kind, str(numbers["requests"]), str(numbers["failed"]), cell(numbers["prompt_tokens_mean"], 0)]
        row += [cell(value, 3) for value in numbers["ttft_s"].values()]
        row += [cell(value, 1) for value in numbers["itl_ms"].values()]
        rows.append([*row, cell(numbers["output_tokens_per_s"], 1)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    whole = result["all"]
    last = (
        f"{whole['total_s']:.1f} s in all, {cell(whole['tokens_per_chunk'], 2)} tokens in a chunk, "
        f"{result['long']['repeats']} long requests about an earlier document, "
        f"sent at most {cell(whole['sent_late_max_ms'], 1)} ms late"
    )
    return "\n".join([*lines, last])


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Send long and short requests to an OpenAI-compatible endpoint; print TTFT and ITL.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("url", metavar="URL", help="the endpoint, without /v1")
    add("model", metavar="MODEL", help="the model's name there")
    add("--duration-s", type=float, default=60.0, help="how long requests arrive")
    add("--long-rate", type=float, default=1.0, help="long requests per second; 0 for none")
    add("--long-tokens", type=int, default=8000, help="about how many tokens a long prompt has")
    add("--long-output", type=int, default=32, help="output tokens of a long request")
    add("--short-rate", type=float, default=4.0, help="short requests per second; 0 for none")
    add("--short-tokens", type=int, default=200, help="about how many tokens a short prompt has")
    add("--short-output", type=int, default=128, help="output tokens of a short request")
    add("--reuse", type=float, default=0.5, help="share of the long requests about an earlier document")
    add("--documents", type=int, default=8, help="how many documents, the first ones, are asked about again")
    add("--seed", type=int, default=0, help="the same seed gives the same arrivals and prompts")
    add("--warm-up", type=int, default=4, help="requests of each class before the measurement")
    add("--label", default="agg", help="the name of what is measured")
    add("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    options = parser.parse_args(argv, namespace=Options())
    if not 0 <= options.reuse <= 1:
        parser.error("--reuse is a share: 0 to 1")
    sizes = (options.long_tokens, options.long_output, options.short_tokens, options.short_output)
    if min(options.duration_s, *sizes) <= 0:
        parser.error("--duration-s and the numbers of tokens are above 0")
    if min(options.long_rate, options.short_rate, options.documents, options.warm_up) < 0:
        parser.error("the rates, --documents and --warm-up are 0 or more")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print: the exit code."""
    options = parse(argv)
    requests = schedule(options)
    if not requests:
        print("No request is due within --duration-s: raise it or the rates.", file=sys.stderr)
        return 1
    records, start = asyncio.run(measure(options, requests))
    errors = [record.error for record in records if record.error]
    if len(errors) == len(records):
        print(f"Each of the {len(records)} requests failed. The first: {errors[0]}", file=sys.stderr)
        return 1
    result = report(options, records, start)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    if errors:
        print(f"{len(errors)} of {len(records)} requests failed. The first: {errors[0]}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
