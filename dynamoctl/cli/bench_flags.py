"""The flags of `dynamoctl bench`, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json
from dynamoctl.errors import SpecError

if TYPE_CHECKING:
    from dynamoctl.bench.workloads import Workload
    from dynamoctl.operations.load_generators import Load

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
        help="Seed for the prompts. Reuse one to repeat them; by default each run generates new, uncached"
        " prompts.",
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
class LoadOptions:
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
class SharedOptions:
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


def whole_numbers(flag: str, given: str) -> list[int]:
    """The numbers of a comma-separated list, each once.

    Raises:
        SpecError: there is none, or one is not a whole number above 0.
    """
    values = numbers(flag, given)
    if not values or any(one != int(one) for one in values):
        raise SpecError(f"{flag}: '{given}' are not whole numbers", f"as in: {flag} 128,256")
    return [int(one) for one in values]


def numbers(flag: str, given: str) -> list[float]:
    """The numbers of a comma-separated list, each once.

    Raises:
        SpecError: one is not a number above 0.
    """
    try:
        values = [float(word) for word in given.split(",") if word.strip()]
    except ValueError:
        values = [0.0]
    if any(not 0 < one < 1e9 for one in values):
        raise SpecError(f"{flag}: '{given}' are not numbers above 0", f"as in: {flag} 128,256")
    return list(dict.fromkeys(values))
