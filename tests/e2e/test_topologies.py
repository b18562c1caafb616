"""Several workers and several deployments, with Dynamo's mocker: what needs many starts."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli, chat, free_port, post, wait_for

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"


def units(cli: Cli, name: str) -> dict[str, dict[str, Any]]:
    return {unit["name"]: unit for unit in cli.status(name)["units"]}


def registered(cli: Cli, name: str, component: str) -> int:
    """How many workers of a component the deployment's store lists."""
    store = cli.home / "deployments" / name / "store"
    return len(list(store.glob(f"v1/instances/*%2F{component}%2Fgenerate%2F*")))


@pytest.mark.fault("SIGKILL to one of two prefill workers", "requests go to the other; restarts it")
def test_two_decode_and_two_prefill_workers_answer_and_a_killed_prefill_comes_back(cli: Cli) -> None:
    port = free_port()
    up = cli(
        "up", "disagg", "--engine", "mocker", "--decode", "2", "--prefill", "2", "-n", "square",
        "--port", str(port), "--start", "overlapped",
    )  # fmt: skip
    assert up.code == 0, up.err
    endpoint = f"http://127.0.0.1:{port}"
    before = units(cli, "square")
    assert [unit["role"] for unit in before.values()] == [
        "frontend",
        "decode",
        "decode",
        "prefill",
        "prefill",
    ]
    for number in range(8):
        assert chat(endpoint, MODEL, f"Hello {number}", max_tokens=4)
    os.kill(before["prefill-1"]["pid"], signal.SIGKILL)
    # Its lease would last for 10 s; requests that are sent to it fail.
    wait_for(lambda: registered(cli, "square", "prefill") == 1, 5)
    wait_for(lambda: cli.status("square")["state"] == "degraded", 5)
    for number in range(8):
        assert chat(endpoint, MODEL, f"Hello meanwhile {number}", max_tokens=4)
    wait_for(lambda: cli.status("square")["state"] == "ready", 90)
    after = units(cli, "square")
    assert after["prefill-1"]["restarts"] == 1
    assert after["prefill-1"]["pid"] != before["prefill-1"]["pid"]
    assert all(after[name]["pid"] == before[name]["pid"] for name in before if name != "prefill-1")
    for number in range(8):
        assert chat(endpoint, MODEL, f"Hello again {number}", max_tokens=4)
    assert cli("down", "-n", "square").code == 0


def test_a_prefill_worker_that_fails_takes_everything_down_with_its_last_lines(
    cli: Cli, tmp_path: Path
) -> None:
    """Decode is up by then."""
    config = tmp_path / "d.toml"
    config.write_text('prefill_args = ["--speedup-ratio", "abc"]\n')
    failed = cli(
        "up", "disagg", "--engine", "mocker", "-n", "half", "--port", str(free_port()),
        "--config", str(config),
    )  # fmt: skip
    assert failed.code == 4
    assert "decode-0: ready" in failed.err
    assert "prefill-0 ended" in failed.err
    assert "argument --speedup-ratio: invalid" in failed.err
    assert "prefill-0.log" in failed.err
    assert cli.ours("half") == {}


def test_deployments_side_by_side_do_not_see_each_other(cli: Cli) -> None:
    ports = {"one": free_port(), "two": free_port()}
    for name, port in ports.items():
        up = cli(
            "up", "agg", "--engine", "mocker", "-n", name, "--served-model-name", f"model-{name}",
            "--port", str(port),
        )  # fmt: skip
        assert up.code == 0, up.err
    everything = cli("status", "--all", "--json").json["deployments"]
    there = {body["name"]: body for body in everything if body["state"] == "ready"}
    assert there.keys() == {"one", "two"}
    for name, port in ports.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60) as answer:
            text = answer.read().decode()
        assert f"model-{name}" in text
        assert text.count("model-") == 1
    plans = [(cli.home / "deployments" / name / "plan.json").read_text() for name in ports]
    assert "dynamoctl-one" in plans[0]
    assert "dynamoctl-two" not in plans[0]
    assert cli("down", "-n", "one").code == 0
    assert cli.status("two")["state"] == "ready"
    assert chat(f"http://127.0.0.1:{ports['two']}", "model-two", "Still there?", max_tokens=2)
    assert cli("down", "--all").code == 0
    assert cli.ours() == {}


def test_the_kv_router_serves(cli: Cli) -> None:
    """The other modes are one word for the frontend: `test_rules` asks its parser for each."""
    port = free_port()
    up = cli(
        "up", "agg", "--engine", "mocker", "--workers", "2", "-n", "router", "--router-mode", "kv",
        "--port", str(port), "--start", "overlapped",
    )  # fmt: skip
    assert up.code == 0, up.err
    words = "The sea is wide and the sky is blue. " * 40
    for _ in range(3):
        reply = post(
            f"http://127.0.0.1:{port}/v1/completions", {"model": MODEL, "prompt": words, "max_tokens": 2}
        )
        assert reply["usage"]["completion_tokens"] == 2
    assert cli("down", "-n", "router").code == 0
