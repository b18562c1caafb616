"""`dynamoctl restart`: units of a living deployment, one after the other, while clients ask."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from .conftest import Cli, free_port, wait_for
from .streams import InFlight

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
TOKENS = 100
# Five clients, four times a second: of about a second each, some twenty are in flight all the time.
PROMPTS = [f"Story number {number}. Once upon a time" for number in range(5)]
PAUSE_S = 0.25


def up(cli: Cli, name: str, *words: str) -> str:
    """The endpoint of mockers whose second is one of ours."""
    port = free_port()
    done = cli(
        "up", *words, "-n", name, "--port", str(port), "--start", "overlapped", "--engine", "mocker",
        "--", "--speedup-ratio", "1",
    )  # fmt: skip
    assert done.code == 0, done.err
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("words", "roles"),
    [
        (("agg", "--workers", "2"), ("agg",)),
        (("disagg", "--decode", "2", "--prefill", "2"), ("prefill", "decode")),
    ],
    ids=["agg", "disagg"],
)
def test_no_request_notices_that_the_workers_are_restarted(
    cli: Cli, words: tuple[str, ...], roles: tuple[str, ...]
) -> None:
    name = words[0]
    endpoint = up(cli, name, *words)
    asked: list[InFlight] = []
    for role in roles:
        with cli.start("restart", name, "--role", role) as restarting:
            deadline = time.monotonic() + 120
            while restarting.poll() is None and time.monotonic() < deadline:
                asked.append(InFlight(endpoint, MODEL, PROMPTS, TOKENS))
                time.sleep(PAUSE_S)
            _, said = restarting.communicate(timeout=10)
        assert restarting.returncode == 0, said
        assert said.count(": replaced after ") == 2, said
    answers = [answer for clients in asked for answer in clients.end(120)]
    print(f"{name}: {len(answers)} answers")
    assert [one for one in answers if not one.is_whole(TOKENS)] == []
    # The mocker sends each token by itself: none is missing, none came twice.
    assert {one.chunks for one in answers} == {TOKENS}
    body = cli.status(name)
    workers = [unit for unit in body["units"] if unit["role"] in roles]
    assert (body["state"], {unit["restarts"] for unit in workers}) == ("ready", {1})
    assert cli("down", "-n", name).code == 0


def test_the_only_worker_and_the_frontend_are_restarted_if_that_is_meant(cli: Cli) -> None:
    endpoint = up(cli, "one", "agg")
    before = {unit["name"]: unit["pid"] for unit in cli.status("one")["units"]}
    asked = cli("restart", "one", "--all", "--in-place")
    assert asked.code == 2
    assert "worker-0: requests fail until it is back" in asked.err
    assert "frontend: answers break off" in asked.err
    assert "--yes" in asked.err
    assert {unit["name"]: unit["pid"] for unit in cli.status("one")["units"]} == before
    done = cli("restart", "one", "--all", "--yes", "--json")
    assert done.code == 0, done.err
    units = [(unit["name"], unit["in_place"]) for unit in done.json["units"]]
    assert units == [("worker-0", False), ("frontend", True)]
    assert all(unit["seconds"] > 0 for unit in done.json["units"])
    after = cli.status("one")
    assert after["state"] == "ready"
    assert not {unit["name"]: unit["pid"] for unit in after["units"]}.items() & before.items()
    (answer,) = InFlight(endpoint, MODEL, PROMPTS[:1], TOKENS).end(120)
    assert answer.is_whole(TOKENS)
    assert cli("down", "-n", "one").code == 0


@pytest.mark.fault(
    "SIGKILL to `restart`, and then to the supervisor, in the middle of a restart",
    "the restart goes on; `status` says where the supervisor has left it, and `down` removes what is there",
)
def test_who_is_killed_in_the_middle_of_a_restart(cli: Cli) -> None:
    endpoint = up(cli, "killed", "agg", "--workers", "2")
    before = units(cli)
    # While a mocker finishes these, nothing else happens to it.
    streams = InFlight(endpoint, MODEL, PROMPTS, 400)
    streams.wait_until(lambda one: one.chunks > 0, len(PROMPTS))
    with cli.start("restart", "killed", "--role", "agg") as restarting:
        wait_for(lambda: units(cli)["worker-0"]["phase"].startswith("draining"))
        restarting.kill()
    wait_for(lambda: cli.status("killed")["revision"] == 2)
    wait_for(lambda: cli.status("killed")["state"] == "ready")
    after = units(cli)
    assert all(after[name]["pid"] != before[name]["pid"] for name in ("worker-0", "worker-1"))
    assert all(one.is_whole(400) for one in streams.end(120)), streams.answers

    streams = InFlight(endpoint, MODEL, PROMPTS, 400)
    streams.wait_until(lambda one: one.chunks > 0, len(PROMPTS))
    with cli.start("restart", "killed", "worker-1") as restarting:
        wait_for(lambda: units(cli)["worker-1"]["phase"].startswith("draining"))
        os.kill(cli.supervisor("killed"), signal.SIGKILL)
        _, said = restarting.communicate(timeout=30)
    assert restarting.returncode == 4, said
    assert "the supervisor of 'killed' has ended or does not answer" in said
    left = cli.status("killed")
    assert left["state"] == "unsupervised"
    assert any("restart worker-1: replacing worker-1" in warning for warning in left["warnings"])
    assert cli("restart", "killed", "worker-1").code == 2
    streams.end(120)
    assert cli("down", "-n", "killed").code == 0
    assert "interrupted" in cli("history", "killed").out


def units(cli: Cli) -> dict[str, dict[str, Any]]:
    return {unit["name"]: unit for unit in cli.status("killed")["units"]}
