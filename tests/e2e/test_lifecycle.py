"""Starts and ends with Dynamo's mocker (quick) and with hostile stand-ins (rude)."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.state import DeploymentDir

from .conftest import Cli, Result, chat, free_port, shared_memory, wait_for
from .stand_ins import RUDE, SERVE, reap, stand_in, supervise

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(300)]


def up(cli: Cli, name: str, *more: str) -> Result:
    return cli("up", "agg", "--engine", "mocker", "-n", name, "--port", str(free_port()), *more)


def pids(cli: Cli, name: str) -> dict[str, int]:
    return {unit["name"]: unit["pid"] for unit in cli.status(name)["units"]}


@pytest.mark.fault(
    "SIGKILL to a worker",
    "restarts it; ready again when the frontend lists the model",
)
def test_a_worker_that_dies_is_restarted_and_the_deployment_is_ready_again(cli: Cli) -> None:
    assert up(cli, "restart").code == 0
    before = pids(cli, "restart")
    os.kill(before["worker-0"], signal.SIGKILL)
    wait_for(lambda: cli.status("restart")["state"] == "degraded", 30)
    wait_for(lambda: cli.status("restart")["state"] == "ready", 60)
    body = cli.status("restart")
    # Ready means that it serves: a worker's gate opens before the frontend has heard of it.
    assert chat(body["endpoint"], body["model"], "Hello", max_tokens=2)
    after = {unit["name"]: unit for unit in body["units"]}
    assert after["worker-0"]["restarts"] == 1
    assert after["worker-0"]["pid"] != before["worker-0"]
    assert after["frontend"]["pid"] == before["frontend"]
    assert cli("down", "-n", "restart").code == 0
    told = cli("logs", "supervisor", "-n", "restart", "-l", "0").out
    story = (
        "deployment is ready",
        r"worker-0 ended after \S+ s \(SIGKILL\)",
        "deployment is degraded",
        f"worker-0 is started: pid {after['worker-0']['pid']}",
        "worker-0 is ready after",
        "deployment is ready",
        "deployment is stopped",
    )
    assert re.search(".*".join(story), told, re.DOTALL), told


@pytest.fixture
def watched(cli: Cli) -> Iterator[ExitStack]:
    """A slow deployment; it and what is put on the stack are gone afterwards, whatever the test has found."""
    with ExitStack() as ends:
        ends.callback(cli, "down", "-n", "watched")
        assert up(cli, "watched", "--", "--speedup-ratio", "0.3").code == 0
        yield ends


def end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=30)


def test_a_deployment_is_watched_under_load_and_while_it_is_taken_down(cli: Cli, watched: ExitStack) -> None:
    body = cli.status("watched")
    before = body["load"]
    assert before["requests_total"] >= 1  # what proved it
    assert before["generation_tokens_total"] > 0
    watching = cli.start("status", "--watch", "--json", "--interval", "0.5", "-n", "watched")
    watched.callback(end, watching)
    terminal, follower = os.openpty()
    termios.tcsetwinsize(follower, (40, 100))
    live = subprocess.Popen(
        [sys.executable, "-m", "dynamoctl", "status", "-w", "--interval", "0.5", "-n", "watched"],
        env=cli.env(TERM="xterm"), stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    watched.callback(end, live)
    os.close(follower)
    assert watching.stdout is not None
    lines = (json.loads(line) for line in watching.stdout)
    assert next(lines)["rates"] is None  # there is nothing to compare with yet
    shown = b""
    while b"finished" not in shown:  # its first look; what comes before that has no rate
        shown += os.read(terminal, 65536)
    streams = [Stream(body["endpoint"], body["model"], 30) for _ in range(3)]
    for stream in streams:
        stream.start()
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["load"]["requests_total"] < before["requests_total"] + 3:
        one = next(lines)
        if one["rates"] and one["load"]["requests_total"] is not None:
            seen.append(one)
    for stream in streams:
        stream.join(60)
    assert max(one["load"]["requests_running"] for one in seen) > 0
    assert max(one["rates"]["generation_tokens_per_s"] for one in seen) > 0
    assert 0 < seen[-1]["rates"]["ttft_p50_s"] <= seen[-1]["rates"]["ttft_p95_s"]
    assert seen[-1]["rates"]["inter_token_latency_p50_s"] > 0
    finished = f"{before['requests_total'] + 3} finished".encode()
    while b"first token p50 -" in shown[shown.rfind(b"latency") :] or finished not in shown:
        shown += os.read(terminal, 65536)
    live.send_signal(signal.SIGINT)
    while chunk := read_end(terminal):
        shown += chunk
    assert live.wait(30) == 0
    assert b"\x1b[?25h" in shown  # the cursor is back
    # Real lines of real programs: each says when, and how bad.
    logged = cli("logs", "-n", "watched", "-l", "0", "--json").json["lines"]
    assert {line["unit"] for line in logged} >= {"frontend", "worker-0"}
    assert sum(line["level"] is not None for line in logged) > 0.9 * len(logged)
    # Threads of one program write in their own order; a log is never put into another one.
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in logged]
    assert all(later - earlier > -1 for earlier, later in pairwise(times))
    assert cli("down", "-n", "watched").code == 0
    gone = next(one for one in lines if one["state"] == "stopped")
    assert (gone["load"], gone["rates"]) == (None, None)
    watching.send_signal(signal.SIGTERM)
    watching.communicate(timeout=30)
    assert watching.returncode == 128 + signal.SIGTERM


def read_end(terminal: int) -> bytes:
    """What is left in a terminal; nothing once its other side is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        os.close(terminal)
        return b""


class Stream(threading.Thread):
    """A streamed chat: how many chunks came, the reason to finish, what broke it."""

    def __init__(self, endpoint: str, model: str, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self.endpoint, self.chunks, self.reason, self.error = endpoint, 0, "", ""
        self.body = {
            "model": model,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "stream": True,
        }

    def run(self) -> None:
        url = f"{self.endpoint}/v1/chat/completions"
        request = urllib.request.Request(
            url, json.dumps(self.body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                for line in answer:
                    if line.startswith(b"data: {"):
                        event = json.loads(line.removeprefix(b"data: "))
                        choices = event.get("choices") or []
                        self.error = event.get("error", {}).get("message", self.error)
                        self.chunks += len(choices)
                        self.reason = next((c["finish_reason"] or "" for c in choices), self.reason)
        except (OSError, HTTPException) as error:
            self.error = type(error).__name__


@pytest.mark.fault("`down` while a mocker answers a request", "it gets `--drain` seconds, then an error")
@pytest.mark.parametrize(
    ("drain", "max_tokens", "ends"),
    [(60, 40, True), pytest.param(1, 2000, False)],
)
def test_a_request_in_flight_gets_its_time_and_then_an_error(
    cli: Cli, drain: int, max_tokens: int, ends: bool
) -> None:
    # 0.1 s for a token, or little more: the short answer takes some seconds, the long one some minutes.
    name = f"drain-{drain}"
    assert up(cli, name, "--drain", str(drain), "--", "--speedup-ratio", "0.1").code == 0
    body = cli.status(name)
    stream = Stream(body["endpoint"], body["model"], max_tokens)
    stream.start()
    wait_for(lambda: stream.chunks > 1, 60)
    assert stream.chunks < max_tokens / 2
    assert cli("down", "-n", name).code == 0
    stream.join(30)
    assert not stream.is_alive()
    print(stream.chunks, stream.reason, stream.error)
    if ends:
        assert (stream.reason, stream.error) == ("length", "")
    else:
        # In the 26 s after which the supervisor would kill the worker it would have got more.
        assert stream.chunks < max_tokens / 10
        assert stream.error


@pytest.mark.fault(
    "Ctrl-C or SIGTERM to `up` while units import",
    "takes down what was started; exit 130 or 143",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_that_is_broken_off_leaves_nothing(cli: Cli, number: signal.Signals) -> None:
    starting = cli.start("up", "agg", "--engine", "mocker", "-n", "broken-off", "--port", str(free_port()))
    wait_for(lambda: cli.ours("broken-off"), 60)
    starting.send_signal(number)
    starting.communicate(timeout=60)
    assert starting.returncode == 128 + number
    assert cli.ours("broken-off") == {}


@pytest.mark.fault("the terminal of `up` is closed", "takes down what was started; exit 129")
def test_up_whose_terminal_is_closed_leaves_nothing(cli: Cli) -> None:
    leader, follower = os.openpty()
    starting = subprocess.Popen(
        [
            # A terminal of its own; and if the tests run below nohup, SIGHUP is ignored unless it is told.
            "setsid", "--ctty", "env", "--default-signal=HUP",
            sys.executable, "-m", "dynamoctl",
            "up", "agg", "--engine", "mocker", "-n", "closed", "--port", str(free_port()),
        ],
        env=cli.env(TERM="xterm"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )  # fmt: skip
    os.close(follower)
    wait_for(lambda: any("dynamo.frontend" in line for line in cli.ours("closed").values()), 60)
    os.close(leader)
    assert starting.wait(60) == 128 + signal.SIGHUP
    assert cli.ours("closed") == {}
    assert cli.status("closed")["state"] == "stopped"


@pytest.mark.fault(
    "two `up` at once",
    "one deployment; both wait for it and end with 0",
)
def test_two_ups_at_once_make_one_deployment(cli: Cli) -> None:
    port = str(free_port())
    words = ("up", "agg", "--engine", "mocker", "-n", "twice", "--port", port, "--json")
    both = [cli.start(*words), cli.start(*words)]
    answers = [json.loads(one.communicate(timeout=120)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert answers[0]["endpoint"] == answers[1]["endpoint"]
    supervisors = [line for line in cli.ours("twice").values() if "dynamoctl.supervisor" in line]
    assert len(supervisors) == 1
    assert cli("down", "-n", "twice").code == 0


@pytest.mark.fault(
    "SIGKILL to the supervisor",
    "`status` says unsupervised, `up` refuses (3), `down` removes all",
)
def test_a_dead_supervisor_is_said_and_down_cleans_up(cli: Cli) -> None:
    assert up(cli, "orphaned").code == 0
    os.kill(cli.supervisor("orphaned"), signal.SIGKILL)
    wait_for(lambda: cli.status("orphaned")["state"] == "unsupervised", 30)
    refused = up(cli, "orphaned")
    assert (refused.code, "down -n orphaned" in refused.err) == (3, True)
    assert cli("down", "-n", "orphaned").code == 0
    assert cli.ours("orphaned") == {}
    assert cli.status("orphaned")["state"] == "stopped"


@pytest.mark.fault(
    "the HTTP port is taken",
    "exit 3, names the process; nothing is started",
)
def test_a_taken_port_is_a_preflight_error_that_names_the_holder(cli: Cli) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        refused = cli("up", "agg", "--engine", "mocker", "-n", "taken", "--port", str(port))
    assert refused.code == 3
    assert f"port {port} is taken by process {os.getpid()}" in refused.err
    assert not DeploymentDir("taken").state_file.exists()
    assert cli.status("taken")["units"] == []


@pytest.fixture(autouse=True, scope="module")
def _supervisors_are_reaped() -> Iterator[None]:
    yield
    reap()


def descendants(pid: int) -> set[int]:
    import psutil

    return {one.pid for one in psutil.Process(pid).children(recursive=True)}


@pytest.mark.parametrize(
    "how",
    [pytest.param(how, marks=pytest.mark.fault(f"a worker {how}", "`down` removes it")) for how in RUDE],
)
def test_down_removes_a_worker_that(cli: Cli, how: str) -> None:
    name = f"rude-{list(RUDE).index(how)}"
    stand_in(cli, name, RUDE[how])
    supervisor = supervise(cli, name)
    wait_for(lambda: cli.status(name)["state"] == "ready", 60)
    family = descendants(supervisor)
    assert len(family) == (3 if "forks" in how else 2)
    own = {f"psm_standin_{pid}" for pid in family}
    assert bool(own & shared_memory()) == ("shared memory" in how)
    assert cli("down", "-n", name).code == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)
    assert not own & shared_memory()


@pytest.mark.fault(
    "a worker floods its log",
    "keeps the last 64 MiB, and 64 MiB before",
)
def test_a_worker_that_floods_its_log_does_not_fill_the_disk(cli: Cli) -> None:
    flood = """
import os, threading
def flood():
    for _ in range(150):
        os.write(1, (b"x" * 1023 + b"\\n") * 1024)
threading.Thread(target=flood, daemon=True).start()
"""
    stand_in(cli, "flood", flood + SERVE)
    supervise(cli, "flood")
    logs = cli.home / "deployments/flood/logs"
    wait_for(lambda: (logs / "worker-0.log.1").exists(), 60)
    wait_for(lambda: sum(log.stat().st_size for log in logs.iterdir()) <= 129 * 1024 * 1024, 30)
    wait_for(lambda: cli.status("flood")["state"] == "ready", 60)
    assert cli("down", "-n", "flood").code == 0
    assert sum(log.stat().st_size for log in logs.iterdir()) <= 129 * 1024 * 1024


@pytest.mark.fault(
    "a worker exits 0 before it is ready",
    "fails at once (4) with its last lines; takes all down",
)
def test_a_worker_that_ends_with_0_before_it_is_ready_is_a_failure(cli: Cli) -> None:
    stand_in(cli, "quitter", "print('had enough')")
    supervise(cli, "quitter")
    body = wait_for(lambda: (b := cli.status("quitter"))["state"] == "failed" and b, 60)
    assert body["error"]["code"] == 4
    assert "worker-0 ended" in body["error"]["message"]
    assert "exit 0" in body["error"]["message"]
    assert "had enough" in body["error"]["hint"]
    wait_for(lambda: cli.ours("quitter") == {}, 30)


@pytest.mark.fault(
    "another process answers at a worker's gate", "does not count; fails at the deadline (4) and says so"
)
def test_an_answer_of_another_process_at_the_gate_does_not_count(cli: Cli) -> None:
    """Identity before health: the frontend answers at the port that the worker's gate asks."""
    stand_in(cli, "impostor", "import time; time.sleep(600)")
    folder = DeploymentDir("impostor")
    folder.path = cli.home / "deployments" / "impostor"
    body = folder.read_plan()
    assert body is not None
    http = body["plan"]["port"]
    body["plan"]["units"][1]["gate"]["port"] = http
    folder.write_plan(body)
    supervise(cli, "impostor")
    body = wait_for(lambda: (b := cli.status("impostor"))["state"] == "failed" and b, 60)
    assert "another process answers at its port" in body["error"]["message"]
    wait_for(lambda: cli.ours("impostor") == {}, 30)


def test_help_and_status_do_not_import_the_engine_or_pydantic(cli: Cli) -> None:
    import subprocess

    for words in (["--help"], ["status"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "dynamoctl", *words],
            env=cli.env(), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not loaded & {"pydantic", "httpx2", "psutil", "pynvml", "torch", "vllm", "prometheus_client"}
