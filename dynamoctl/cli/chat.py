"""`dynamoctl chat`."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamoctl.cli import completers
from dynamoctl.cli.options import Json, NameOption, one_name


def command(
    deployment: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The deployment; the same as --name. Only before a question.",
            show_default=False,
            autocompletion=completers.deployments,
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            help="One question; without it they are read from the terminal, or from a pipe.",
            show_default=False,
        ),
    ] = None,
    name: NameOption = None,
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
    from dynamoctl.state import deployments

    def show(piece: str) -> None:
        print(piece, end="", flush=True)

    if question is None:
        # One word is the question, whatever deployments there are.
        deployment, question = None, deployment
    elif deployment not in deployments():
        raise SpecError(
            f"there is no deployment '{deployment}'", "quote the question: dynamoctl chat 'QUESTION'"
        )
    chosen = one_name(deployment, name)
    chosen = "default" if chosen is None else chosen
    talk = begin(chosen, system, max_tokens, temperature)
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
            emit(ChatAnswer(name=chosen, model=talk.model, **vars(reply)))
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
