"""When a deployment serves: what the frontend lists, what it answers, and when waiting makes no sense."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote

import pytest
from dynamoctl.errors import NotReadyError
from dynamoctl.logs.phases import LogWatch
from dynamoctl.monitoring import loopback_http, probes
from dynamoctl.supervisor import failures
from dynamoctl.supervisor.deployment import Deployment

from tests.unit.served import served

ENDPOINT = "http://127.0.0.1:8000"


# ---- names ----------------------------------------------------------------------------------


def frontend(*names: str) -> Any:
    """A frontend that lists these names."""
    paths = {f"{ENDPOINT}/v1/models/{name}/ready" for name in names}

    def answer(url: str, _question: Any) -> str:
        if url == f"{ENDPOINT}/v1/models":
            return json.dumps({"data": [{"id": name} for name in names]})
        return json.dumps({"ready": True} if unquote(url) in paths else {"message": "Model not found"})

    return answer


@pytest.mark.parametrize("name", ["qwen", "org/qwen", "my model"])
def test_a_model_of_any_name_is_found_in_the_list(name: str) -> None:
    with served(frontend(name)):
        assert asyncio.run(probes.lists_model(ENDPOINT, name)) == (True, "")
        missing = (False, f"the frontend does not list {name}2")
        assert asyncio.run(probes.lists_model(ENDPOINT, f"{name}2")) == missing


@pytest.mark.parametrize(
    ("name", "path"), [("a?b", "a%3Fb"), ("a#b", "a%23b"), ("a%2Fb", "a%252Fb"), ("o/m", "o/m")]
)
def test_a_name_is_quoted_in_a_path(name: str, path: str) -> None:
    asked = []

    def answer(url: str, _question: Any) -> str:
        asked.append(url)
        return "{}"

    with served(answer):
        asyncio.run(probes.lists_model(ENDPOINT, name))
    assert asked == [f"{ENDPOINT}/v1/models/{path}/ready"]


# ---- a completion ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "done"),
    [
        ({"completions": 200}, True),
        ({"completions": 404, "chat/completions": 200}, True),
        ({"completions": 404, "chat/completions": 404}, False),
        ({"completions": 500, "chat/completions": 200}, False),
    ],
)
def test_a_model_that_is_served_for_chat_alone_answers_a_chat(
    monkeypatch: pytest.MonkeyPatch, statuses: dict[str, int], done: bool
) -> None:
    async def ask(_method: str, url: str, request: Any, _timeout_s: float) -> loopback_http.Answer:
        path = url.removeprefix(f"{ENDPOINT}/v1/")
        assert ("messages" in request, "prompt" in request) == (path != "completions", path == "completions")
        return loopback_http.Answer(statuses[path], b'{"usage": {"completion_tokens": 4}}')

    monkeypatch.setattr(loopback_http, "ask", ask)
    assert asyncio.run(probes.complete(ENDPOINT, "m"))[0] is done


# ---- a model that is never listed -----------------------------------------------------------

REFUSED = 'WARN Model materialization failed; scheduling retry attempt=1 error="missing eos_token_id"\n'


def deployment(log: Path, elsewhere: tuple[str, ...] = ()) -> Deployment:
    unit = SimpleNamespace(name="frontend")
    return cast(
        "Deployment",
        SimpleNamespace(
            frontend=SimpleNamespace(unit=unit, log=LogWatch(log)),
            plan=SimpleNamespace(model="m", elsewhere=elsewhere),
            folder=SimpleNamespace(log=lambda _name: log),
        ),
    )


def test_a_model_that_the_frontend_refuses_again_and_again_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "frontend.log"
    one = deployment(log)
    log.write_text(REFUSED * 9)
    failures.forget_listing(one)  # what was said while units were still starting
    failures.check_listing(one)
    with log.open("a") as file:
        file.write(REFUSED * 3)
    failures.check_listing(one)
    with log.open("a") as file:
        file.write(REFUSED)
    with pytest.raises(NotReadyError, match="cannot list m: missing eos_token_id") as caught:
        failures.check_listing(one)
    assert str(log) in caught.value.hint


def test_with_workers_on_other_hosts_it_may_still_become_listed(tmp_path: Path) -> None:
    log = tmp_path / "frontend.log"
    one = deployment(log, elsewhere=("decode",))
    log.write_text(REFUSED * 9)
    failures.check_listing(one)
