"""`dynamoctl chat`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli.options import Json, Name


def command(
    question: Annotated[
        str | None,
        typer.Argument(help="One question; without it they are read from the terminal, or from a pipe."),
    ] = None,
    name: Name = "default",
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 for the likeliest answer.")] = 0.7,
    json: Json = False,
) -> None:
    """Talk to a deployment that is up. On a terminal, Ctrl-D or an empty line ends it."""
    import sys

    from dynamoctl.answers.chat import ChatAnswer
    from dynamoctl.cli.output import emit, note
    from dynamoctl.errors import SpecError
    from dynamoctl.operations.chat import begin

    def show(piece: str) -> None:
        print(piece, end="", flush=True)

    talk = begin(name, system, max_tokens, temperature)
    asks_on = question is None and sys.stdin.isatty()
    if asks_on and json:
        raise SpecError(
            "--json prints one answer, so it needs a question", "dynamoctl chat --json 'QUESTION'"
        )
    if not asks_on:
        question = question if question is not None else sys.stdin.read()
        if not question.strip():
            raise SpecError("there is no question", "dynamoctl chat 'QUESTION', or pipe one in")
        reply = talk.ask(question.strip(), (lambda _: None) if json else show)
        if json:
            emit(ChatAnswer(name=name, model=talk.model, **vars(reply)))
        else:
            print()
        return

    import readline  # noqa: F401  (line editing for input)

    note(f"{talk.model} at {talk.endpoint}; Ctrl-D or an empty line ends it")
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()  # what is said of it begins a line
            raise
        if not question:
            return
        reply = talk.ask(question, show)
        rate = reply.completion_tokens / max(reply.seconds, 0.001)
        print()
        note(
            f"  {reply.completion_tokens} tokens in {reply.seconds:.1f} s, {rate:.1f} a second;"
            f" the first after {reply.ttft_s:.2f} s"
        )
