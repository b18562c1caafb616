"""One deployment over two hosts that find each other in etcd: first Dynamo's mocker, then the real stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from . import hosts
from .conftest import Cli, cleanly, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
API = "http://127.0.0.1:8000"


@dataclass
class Pair:
    """Two hosts with a dynamoctl each; the frontend is on the first."""

    first: hosts.Host
    second: hosts.Host
    here: Cli
    there: Cli
    etcd: str

    def chat(self, question: str, patience_s: float = 60) -> tuple[int, str]:
        """The status and the answer, or the error."""
        status, text = self.first.ask(
            f"{API}/v1/chat/completions",
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": question}],
                "max_tokens": 24,
                "temperature": 0,
            },
            patience_s,
        )
        return status, json.loads(text)["choices"][0]["message"]["content"] if status == 200 else text

    def words(self, host: hosts.Host, roles: str, *more: str) -> tuple[str, ...]:
        found = ("--discovery", "etcd", "--etcd-endpoints", self.etcd, "--advertise", host.address)
        return ("up", "disagg", "--roles", roles, *found, *more)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Pair]:
    at = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        first, second = stack.enter_context(hosts.two_hosts())
        url = stack.enter_context(hosts.etcd(first, at))
        here, there = (
            stack.enter_context(
                cleanly(Cli(tmp_path_factory.mktemp("home"), prefix=host.prefix), request.node.nodeid)
            )
            for host in (first, second)
        )
        yield Pair(first, second, here, there, url)


@pytest.fixture(scope="module")
def mocked(pair: Pair) -> Pair:
    """A deployment of mockers; the host with the frontend starts first, and waits for the other."""
    waiting = pair.here.start(*pair.words(pair.first, "frontend,decode", "--engine", "mocker"))
    wait_for(lambda: "on another host" in phase(pair.here, "frontend"))
    other = pair.there(*pair.words(pair.second, "prefill", "--engine", "mocker"))
    assert other.code == 0, other.err
    assert "the frontend is on another host" in other.err
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    assert API in out
    return pair


def phase(cli: Cli, unit: str) -> str:
    return next((str(one["phase"]) for one in cli.status()["units"] if one["name"] == unit), "")


def states(cli: Cli) -> dict[str, str]:
    return {one["name"]: one["state"] for one in cli.status()["units"]}


def remote(cli: Cli) -> list[dict[str, Any]]:
    found = cli.status()["remote"]
    assert isinstance(found, list)
    return found


def test_mockers_on_two_hosts_answer(mocked: Pair) -> None:
    status, answer = mocked.chat("What is the capital of France?")
    assert (status, bool(answer)) == (200, True)


def test_each_host_shows_its_units_and_those_of_the_other(mocked: Pair) -> None:
    assert states(mocked.here) == {"frontend": "ready", "decode-0": "ready"}
    assert states(mocked.there) == {"prefill-0": "ready"}
    (prefill,), (decode,) = remote(mocked.here), remote(mocked.there)
    assert (prefill["component"], decode["component"]) == ("prefill", "backend")
    assert prefill["address"].startswith(f"{mocked.second.address}:")
    assert decode["address"].startswith(f"{mocked.first.address}:")
    assert mocked.there.status()["endpoint"] is None
