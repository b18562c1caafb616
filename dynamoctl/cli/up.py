"""`dynamoctl up`: flags, a plan, one call, one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dynamoctl.cli.options import Json
from dynamoctl.cli.plan_command import takes_plan
from dynamoctl.cli.plan_flags import Flags
from dynamoctl.errors import SpecError


@takes_plan
def command(
    flags: Flags,
    config: Path | None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")] = False,
    why: Annotated[
        bool, typer.Option("--why", help="With --dry-run: print the rule behind each variable and flag.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="If it fails, leave what was started.")] = False,
    json: Json = False,
) -> None:
    """Bring a deployment up and return when it has answered a real completion.

    It lives on after this terminal closes. Environment that is read: ENABLE_LMCACHE, LMCACHE_*,
    CUDA_VISIBLE_DEVICES, HF_*.
    """
    from dynamoctl.operations.planning import plan_for_here

    if why and not dry_run:
        raise SpecError("--why explains a plan that is only printed", "add --dry-run")
    planned = plan_for_here(flags, config)
    if dry_run:
        _print_plan(planned.plan, json, why)
        return

    from dynamoctl.cli.draw import UpDisplay
    from dynamoctl.operations.up import up

    with UpDisplay(planned.plan, quiet=json) as display:
        result = up(planned, keep, display.state, display.progress)
    _print_result(planned, result, json)


def _print_plan(plan: Any, as_json: bool, why: bool) -> None:
    from dynamoctl.answers.envelope import envelope
    from dynamoctl.cli.output import emit_json
    from dynamoctl.planner.plan import SCHEMA
    from dynamoctl.planner.printed import render
    from dynamoctl.planner.secrets import redact

    if as_json:
        emit_json(envelope(SCHEMA, redact(plan.as_json(why))))
    else:
        print(redact(render(plan, why)))


def _print_result(planned: Any, result: Any, as_json: bool) -> None:
    from dynamoctl.answers.up import UpAnswer
    from dynamoctl.cli.output import emit, note

    state = result.state
    if as_json:
        emit(
            UpAnswer(
                name=state.name,
                mode=state.mode,
                state=state.state,
                model=state.model,
                endpoint=state.endpoint or None,
                already_up=result.already,
                seconds=round(result.seconds, 1),
                warnings=tuple(state.warnings),
            )
        )
        return
    from dynamoctl.humanize import duration

    for warning in state.warnings:
        note(f"warning: {warning}")
    if result.already:
        note(f"'{state.name}' is already up with this plan")
    else:
        note(
            f"'{state.name}' is ready after {duration(result.seconds)}; take it down with: dynamoctl down"
            + ("" if state.name == "default" else f" -n {state.name}")
        )
    if not state.endpoint:
        note("the frontend is on another host: `dynamoctl up` there proves the whole")
        return
    print(f"endpoint: {state.endpoint}/v1   model: {state.model}")
    print()
    print(curl_line(state.endpoint, state.model, planned.model.chat))


def curl_line(endpoint: str, model: str, chat: bool) -> str:
    """A command that works when it is pasted: one question to what has just come up."""
    import json
    import shlex
    from urllib.request import getproxies_environment

    if chat:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 32,
        }
        path = "/v1/chat/completions"
    else:
        body = {"model": model, "prompt": "The capital of France is", "max_tokens": 32}
        path = "/v1/completions"
    data = shlex.quote(json.dumps(body))
    proxy = " --noproxy '*'" if getproxies_environment().keys() & {"http", "all"} else ""
    return f"curl -s{proxy} {endpoint}{path} -H 'Content-Type: application/json' -d {data}"
