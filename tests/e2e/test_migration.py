"""A worker dies in the middle of answers: with a second one of its role, no client notices."""

from __future__ import annotations

import os
import signal
import time

import pytest

from .conftest import Cli, free_port, wait_for
from .streams import InFlight, moved

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
CLIENTS = 20
TOKENS = 300
PROMPTS = [f"Story number {number}. Once upon a time" for number in range(CLIENTS)]
MOVED = "its requests go on at the other one, none cut, none doubled; restarts it"


def up(cli: Cli, name: str, *words: str) -> str:
    """The endpoint."""
    port = free_port()
    done = cli(
        "up", words[0], "-n", name, "--port", str(port), "--start", "overlapped", "--drain", "0",
        *words[1:], patience_s=500,
    )  # fmt: skip
    assert done.code == 0, done.err
    return f"http://127.0.0.1:{port}"


def mockers(cli: Cli, name: str, speed: float, *words: str) -> str:
    """A second of the mocker's takes so many of ours."""
    return up(cli, name, *words, "--engine", "mocker", "--", "--speedup-ratio", f"{1 / speed:g}")


def pids(cli: Cli, name: str) -> dict[str, int]:
    return {one["name"]: one["pid"] for one in cli.status(name)["units"]}


def kill(cli: Cli, name: str, unit: str) -> None:
    os.kill(pids(cli, name)[unit], signal.SIGKILL)


def is_back(cli: Cli, name: str, unit: str) -> bool:
    body = cli.status(name)
    restarts = {one["name"]: one["restarts"] for one in body["units"]}
    return bool(body["state"] == "ready" and restarts[unit] == 1)


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        pytest.param(
            unit,
            words,
            marks=pytest.mark.fault(f"SIGKILL to one of two {who} in the middle of answers", MOVED),
        )
        for unit, who, words in (
            ("worker-0", "aggregated workers", ("agg", "--workers", "2")),
            ("decode-0", "decode workers", ("disagg", "--decode", "2")),
        )
    ],
    ids=["agg", "decode"],
)
def test_answers_go_on_at_the_other_worker(cli: Cli, unit: str, words: tuple[str, ...]) -> None:
    endpoint = mockers(cli, "two", 1, *words)
    before = moved(cli, "two")  # the completion of `up` can be, while the frontend has not found prefill
    streams = InFlight(endpoint, MODEL, PROMPTS, TOKENS)
    whole = InFlight(endpoint, MODEL, PROMPTS[:4], TOKENS, stream=False)
    streams.wait_until(lambda one: one.chunks >= 50, CLIENTS)
    kill(cli, "two", unit)
    answers = streams.end(120)
    assert all(one.is_whole(TOKENS) for one in answers + whole.end(120)), answers + whole.answers
    # The mocker sends each token by itself.
    assert {one.chunks for one in answers} == {TOKENS}
    assert moved(cli, "two") - before >= CLIENTS // 4
    wait_for(lambda: is_back(cli, "two", unit))
    assert cli("down", "-n", "two").code == 0


@pytest.mark.fault(
    "SIGKILL to one of two workers in the middle of answers, with `--router-mode kv`",
    "restarts it; those of its requests that Dynamo 1.4 fails to move get an error at once",
)
def test_the_kv_router_moves_a_request_or_says_that_it_cannot(cli: Cli) -> None:
    # Whether a request can be moved is a race within the router: see `dynamoctl.planner.migration`.
    endpoint = mockers(cli, "kv", 1, "agg", "--workers", "2", "--router-mode", "kv")
    streams = InFlight(endpoint, MODEL, PROMPTS, TOKENS)
    streams.wait_until(lambda one: one.chunks >= 50, CLIENTS)
    kill(cli, "kv", "worker-0")
    answers = streams.end(120)
    whole = [one for one in answers if one.is_whole(TOKENS)]
    assert all("error" in one.error for one in answers if one not in whole), answers
    print(f"{len(whole)} of {CLIENTS} are whole")
    assert len(whole) >= CLIENTS // 4  # those of the other worker
    wait_for(lambda: is_back(cli, "kv", "worker-0"))
    assert cli("down", "-n", "kv").code == 0


@pytest.mark.fault("SIGKILL to one of two prefill workers in the middle of prompts", MOVED)
def test_prompts_are_computed_anew_at_the_other_prefill_worker(cli: Cli) -> None:
    endpoint = mockers(cli, "prompts", 100, "disagg", "--prefill", "2")
    before = moved(cli, "prompts")
    streams = InFlight(endpoint, MODEL, PROMPTS, 2)
    # The prompts of the others are being computed.
    streams.wait_until(lambda one: one.chunks > 0, 1)
    kill(cli, "prompts", "prefill-0")
    answers = streams.end(120)
    assert all(one.is_whole(2) for one in answers), answers
    assert {one.chunks for one in answers} == {2}
    assert moved(cli, "prompts") > before
    wait_for(lambda: is_back(cli, "prompts", "prefill-0"))
    assert cli("down", "-n", "prompts").code == 0


@pytest.mark.fault(
    "SIGKILL to the only worker of its role in the middle of answers",
    "restarts it; what was in flight gets an error at once",
)
@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("worker-0", ("agg",)),
        ("worker-0", ("agg", "--migration-limit", "0")),
        ("decode-0", ("disagg", "--prefill", "2")),
    ],
    ids=["agg", "agg-without-a-limit", "decode"],
)
def test_without_a_second_worker_there_is_an_error_and_no_hang(
    cli: Cli, unit: str, words: tuple[str, ...]
) -> None:
    endpoint = mockers(cli, "one", 1, *words)
    streams = InFlight(endpoint, MODEL, PROMPTS, 4000)
    streams.wait_until(lambda one: one.chunks >= 50, CLIENTS)
    kill(cli, "one", unit)
    killed = time.monotonic()
    # Long before the worker is back, which takes 5 s of backoff and its start.
    answers = streams.end(30)
    assert all("error" in one.error and one.finish_reason is None for one in answers), answers
    assert {one.status for one in answers} == {200}  # the answers had begun
    print(f"the last error came after {max(one.ended_at or 0 for one in answers) - killed:.2f} s")
    assert cli.status("one")["load"]["failed_requests_total"] == CLIENTS
    wait_for(lambda: is_back(cli, "one", unit))
    assert cli("down", "-n", "one").code == 0
