"""`dynamoctl init`: a dynamoctl.toml for this machine, or the schema of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamoctl.cli.options import Json
from dynamoctl.cli.plan_command import takes_flags
from dynamoctl.cli.plan_flags import Flags
from dynamoctl.errors import SpecError

if TYPE_CHECKING:
    from dynamoctl.answers.init import InitAnswer
    from dynamoctl.operations.init import Draft


@takes_flags
def command(
    flags: Flags,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; -: to stdout.",
            show_default="dynamoctl.toml",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the file's JSON schema, for editors, and nothing else.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a dynamoctl.toml for this machine, with every key and what it means.

    It looks at GPUs, memory, cores and models, and starts nothing.

    What is given as for `up` is set in it. Without a mode, two GPUs or more
    get disagg, and everything else gets agg.
    """
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations.init import STDOUT, draft, write

    if json and (schema or output == STDOUT):
        raise SpecError(
            "--json prints one object of its own, so the file cannot go to stdout too",
            "leave --json out, or name a file with --output",
        )
    if schema:
        _write_schema(output or STDOUT, force)
        return
    from dynamoctl.config.choices import CONFIG_NAME

    path = output or Path(CONFIG_NAME)
    made = draft(flags, path)
    if path == STDOUT:
        print(made.text, end="")
    else:
        write(made.text, path, force, made.private)
    if json:
        emit(_answer(made, path))
        return
    note(f"here: {made.machine}; models: {', '.join(made.models) or 'none'}")
    for line in made.notes:
        note(f"note: {line}")
    if path != STDOUT:
        plan = made.planned.plan
        note(f"wrote {path}: {plan.mode} on {'GPUs' if plan.device == 'cuda' else 'the CPU'}, {plan.model}")
        if made.private:
            note("it holds a password, so nobody else may read it")
    note(f"next: {made.next}")


def _write_schema(path: Path, force: bool) -> None:
    from dynamoctl.config.json_schema import text
    from dynamoctl.operations.init import STDOUT, write

    if path == STDOUT:
        print(text(), end="")
    else:
        write(text(), path, force)


def _answer(made: Draft, path: Path) -> InitAnswer:
    from dynamoctl.answers.init import InitAnswer, InitGpu

    plan, facts = made.planned.plan, made.planned.facts
    return InitAnswer(
        path=str(path.absolute()),
        mode=plan.mode,
        device=plan.device,
        model=plan.model,
        next=made.next,
        notes=made.notes,
        cores=len(facts.cores),
        memory_total_gib=round(facts.memory_total_gib, 1),
        memory_available_gib=round(facts.memory_available_gib, 1),
        gpus=tuple(
            InitGpu(str(index), gpu.name if gpu else None, gpu.memory_mib if gpu else None)
            for index, gpu in enumerate(made.gpus)
        ),
        models=made.models,
    )
