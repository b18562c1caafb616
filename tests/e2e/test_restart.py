"""`dynamoctl restart` of what is there once. While clients ask: see `test_scale`."""

from __future__ import annotations

import pytest

from .conftest import Cli, free_port
from .streams import InFlight

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
TOKENS = 100
PROMPTS = ["Once upon a time"]


def up(cli: Cli, name: str, *words: str) -> str:
    """The endpoint of mockers whose second is one of ours."""
    port = free_port()
    done = cli(
        "up", *words, "-n", name, "--port", str(port), "--start", "overlapped", "--engine", "mocker",
        "--", "--speedup-ratio", "1",
    )  # fmt: skip
    assert done.code == 0, done.err
    return f"http://127.0.0.1:{port}"


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
    (answer,) = InFlight(endpoint, MODEL, PROMPTS, TOKENS).end(120)
    assert answer.is_whole(TOKENS)
    assert cli("down", "-n", "one").code == 0
