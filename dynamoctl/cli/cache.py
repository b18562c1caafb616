"""`dynamoctl cache check` and `dynamoctl cache clear`."""

from __future__ import annotations

import typer

from dynamoctl.cli.options import Json, Name, takes_name

app = typer.Typer(help="Prove that LMCache works, or empty it.", no_args_is_help=True)


@app.command("check")
@takes_name
def check(name: Name = "default", json: Json = False) -> None:
    """Ask a new prompt again and show what LMCache gave back.

    In between, the engines' own prefix caches are emptied, so that only LMCache can answer. What else they
    held is computed again, or comes from LMCache. Where the answer is not what it was, it fails.
    """
    from dynamoctl.answers.cache import CacheCheckAnswer
    from dynamoctl.cli.output import emit
    from dynamoctl.operations import cache

    result = cache.check(name)
    if json:
        emit(CacheCheckAnswer(name, result))
        return
    print(f"LMCache gave back {result.hit_tokens:,} of {result.prompt_tokens:,} tokens")
    if result.same_answer:
        print("the answer was the same")
    print(f"time to the first token: {result.ttft_first_s:.3f} s, then {result.ttft_last_s:.3f} s")
    if not result.prefix_cache_cleared:
        print("(the engines' own prefix caches could not be emptied in between)")


@app.command("clear")
@takes_name
def clear(name: Name = "default", json: Json = False) -> None:
    """Empty LMCache's CPU memory and the engines' prefix caches. A disk and a remote store keep theirs."""
    from dynamoctl.answers.cache import CacheClearAnswer
    from dynamoctl.cli.output import emit, note
    from dynamoctl.operations import cache
    from dynamoctl.planner.secrets import redact

    kept = redact(cache.clear(name))
    if json:
        emit(CacheClearAnswer(name, "cpu memory", tuple(kept)))
        return
    note(
        f"LMCache of '{name}' is empty" + (f"; these keep what they have: {', '.join(kept)}" if kept else "")
    )
