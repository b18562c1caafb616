"""The results of `dynamoctl bench`: to a file, to plots and to stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dynamoctl.errors import DynamoctlError, SpecError

if TYPE_CHECKING:
    from dynamoctl.answers.envelope import Answer
    from dynamoctl.cli.bench_flags import LoadOptions
    from dynamoctl.operations.compare import Comparison

_TAKEN_DOWN = "broken off; what was up for it has been taken down"


def show_answer(answer: Answer, failure: DynamoctlError | None, how: LoadOptions) -> int:
    """Show an answer, write it and draw it; return the exit code."""
    _, kind, _ = answer.schema.split("/")
    return show(kind, asdict(cast("Any", answer)), failure, how.output, how.plot, how.json)


def show(
    kind: str,
    body: dict[str, Any],
    failure: DynamoctlError | None,
    output: Path | None,
    plot: Path | None,
    json: bool,
) -> int:
    """Show a result, write it and draw it; return the exit code. A result that cannot be written is shown all
    the same.

    Args:
        kind: `bench`, `bench-compare` or `bench-tune`.
        body: the answer as JSON, without the envelope. It may come from a file that another version wrote, so
            it is not an answer's dataclass.
    """
    from dynamoctl.answers.envelope import Error, envelope, schema_name
    from dynamoctl.cli import draw_bench
    from dynamoctl.cli.output import emit_json, fail, note
    from dynamoctl.operations import bench

    schema = schema_name(kind)
    try:
        if output is not None:
            bench.write(output, envelope(schema, body, Error.of(failure) if failure else None))
        if plot is not None:
            from dynamoctl.bench import plots

            for path in plots.save(kind, body, plot):
                note(f"drew {path}")
    except DynamoctlError as error:
        failure = failure or error
    if json:
        emit_json(envelope(schema, body, Error.of(failure) if failure else None))
        return failure.exit_code if failure else 0
    draw: dict[str, Callable[[dict[str, Any]], None]] = {
        "bench": draw_bench.draw_bench,
        "bench-compare": draw_bench.draw_compare,
        "bench-tune": draw_bench.draw_tune,
    }
    draw[kind](body)
    return fail("bench", failure, json_wanted=False) if failure else 0


@contextmanager
def say_if_interrupted(words: str, json: bool) -> Iterator[None]:
    """If the user interrupts it, say what has become of what ran."""
    from dynamoctl.cli.output import note

    try:
        yield
    except KeyboardInterrupt:
        if not json:
            note(words)
        raise


@contextmanager
def kept(how: LoadOptions) -> Iterator[Callable[[Comparison], None]]:
    """Keep what was measured if the user interrupts it, or the machine goes down.

    Yields:
        What takes everything that has been measured so far.
    """
    from dynamoctl.answers.envelope import Error, as_json
    from dynamoctl.cli.draw_bench import draw_compare
    from dynamoctl.cli.output import note
    from dynamoctl.operations.bench import write

    latest: list[Comparison] = []
    is_written = False
    unfinished = Error.of(DynamoctlError("not finished", "it was broken off, or goes on still"))

    def keep(now: Comparison) -> None:
        nonlocal is_written
        latest[:] = [now]
        if how.output is not None:
            body = as_json(now.answer, unfinished)
            is_written = False
            with suppress(DynamoctlError):  # if it cannot be written at the end either, that is told
                write(how.output, body)
                is_written = True

    with say_if_interrupted(_TAKEN_DOWN, how.json):
        try:
            yield keep
        except KeyboardInterrupt:
            if latest and not how.json:
                draw_compare(asdict(latest[0].answer))
            if is_written:
                note(f"what was measured is in {how.output}")
            elif latest and how.output is not None:
                note(f"what was measured is not in {how.output}, which cannot be written")
            raise


def require_writable(output: Path | None, plot: Path | None) -> None:
    """See that a result can be written and drawn, before anything is measured.

    Raises:
        SpecError: a file cannot be written.
        PreflightError: Matplotlib is not installed.
    """
    import tempfile

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
