"""The load generator: what it sends, what it counts, how it ends. No latency is asserted."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mixed_load.py"
SMALL = ["--duration-s=2", "--warm-up=1"]
SMALL += ["--long-rate=6", "--long-tokens=60", "--long-output=3"]
SMALL += ["--short-rate=8", "--short-tokens=10", "--short-output=5"]
WARM_UP = 2  # one of each class
GAP_S = 0.005
TEXT = "a\u2028b\x85\n"  # what dummy weights may say: JSON need not escape the first two


def load() -> ModuleType:
    found = importlib.util.spec_from_file_location("mixed_load", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["mixed_load"] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


mixed_load = load()


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for them
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.fault: Callable[[int], str] = lambda number: ""  # of the number of the request, from 0
        self.release = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *words: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append({**body, "path": self.path})
        fault = self.server.fault(number)
        self.send_response(500 if fault == "status" else 200)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if fault == "status":
                self.wfile.write(b"out of order")
            else:
                self.stream(body, fault)

    def stream(self, body: dict[str, Any], fault: str) -> None:
        if fault == "stall":
            self.server.release.wait(30)
            return
        count = body["max_tokens"]
        for left in reversed(range(count)):
            self.event({"choices": [{"text": TEXT, "finish_reason": None if left else "length"}]})
            if fault == "cut":
                return
            if fault == "event":
                self.wfile.write(b"event: error\n: the engine is gone\n\n")
                return
            if fault == "data":
                self.event({"error": {"message": "the engine is gone"}})
            time.sleep(GAP_S)
        usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": count}
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def measure(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SCRIPT), server.url, "fake", *SMALL, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def options(*words: str) -> Any:
    return mixed_load.parse(["http://127.0.0.1:1", "fake", *words])


def record(kind: str = "short", **fields: Any) -> Any:
    return mixed_load.Record(mixed_load.Request(kind, 0.0, "a", 1), scheduled=10.0, **fields)


def test_a_run_is_counted_by_class(server: Server, tmp_path: Path) -> None:
    done = measure(server, "--label", "disagg", "--json", str(tmp_path / "out.json"))
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["label"] == "disagg"
    assert result["arguments"]["long_tokens"] == 60
    measured = server.bodies[WARM_UP:]
    for kind, size, output in (("long", 60, 3), ("short", 10, 5)):
        sent = [body for body in measured if body["max_tokens"] == output]
        numbers = result[kind]
        assert numbers["requests"] == len(sent) > 0
        assert numbers["failed"] == 0
        assert numbers["prompt_tokens_mean"] == size
        assert numbers["tokens_per_chunk"] == 1
        assert numbers["output_tokens_per_s"] * numbers["total_s"] == pytest.approx(len(sent) * output)
        assert 0 < numbers["ttft_s"]["p50"] <= numbers["ttft_s"]["p90"] <= numbers["ttft_s"]["p99"]
        assert numbers["itl_ms"]["p50"] <= numbers["itl_ms"]["p99"] <= numbers["itl_ms"]["max"]
    assert result["all"]["requests"] == len(measured)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["disagg", "long", "short", "all"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_what_is_sent(server: Server) -> None:
    assert measure(server, "--duration-s", "0.5").returncode == 0
    for body in server.bodies:
        assert body["path"] == "/v1/completions"
        assert body["model"] == "fake"
        assert body["stream"] is True
        assert body["ignore_eos"] is True
        assert body["temperature"] == 0
        assert body["stream_options"] == {"include_usage": True}


def test_the_same_seed_gives_the_same_load(server: Server) -> None:
    def prompts(seed: int) -> list[str]:
        server.bodies.clear()
        assert measure(server, "--duration-s", "1", "--seed", str(seed)).returncode == 0
        # Sorted: two requests that are due at nearly the same time may be read in either order.
        return sorted(body["prompt"] for body in server.bodies)

    first = prompts(1)
    assert prompts(1) == first
    assert not set(prompts(2)) & set(first)


def test_the_schedule_is_a_matter_of_the_arguments() -> None:
    first = mixed_load.schedule(options("--seed", "1"))
    assert mixed_load.schedule(options("--seed", "1")) == first
    due = [request.due for request in first]
    assert due == sorted(due)
    assert due[-1] < 60
    # Other prompts, the same arrivals.
    assert [request.due for request in mixed_load.schedule(options("--seed", "1", "--reuse", "0"))] == due
    assert [request.due for request in mixed_load.schedule(options("--seed", "2"))] != due


def test_a_share_of_the_long_requests_has_a_known_document() -> None:
    words = ["--duration-s", "1000", "--long-tokens", "40", "--short-rate", "0", "--documents", "3"]
    requests = mixed_load.schedule(options(*words))
    assert {request.kind for request in requests} == {"long"}
    assert len({request.prompt for request in requests}) == len(requests)
    repeats = [request for request in requests if request.repeat]
    assert 0.4 < len(repeats) / len(requests) < 0.6

    def document(request: Any) -> str:
        return " ".join(request.prompt.split()[: 40 - mixed_load.QUESTION_WORDS])

    fresh = [document(request) for request in requests if not request.repeat]
    assert len(set(fresh)) == len(fresh)
    assert {document(request) for request in repeats} == set(fresh[:3])
    assert not any(request.repeat for request in mixed_load.schedule(options(*words, "--reuse", "0")))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("status", "HTTP 500: out of order"),
        ("cut", "without a reason to finish"),
        ("event", "the engine is gone"),
        ("data", "the engine is gone"),
    ],
)
def test_some_failures_are_counted(server: Server, tmp_path: Path, fault: str, message: str) -> None:
    server.fault = lambda number: fault if number >= WARM_UP and number % 3 == 0 else ""
    done = measure(server, "--duration-s", "1", "--json", str(tmp_path / "out.json"))
    count = len(server.bodies)
    failed = sum(bool(server.fault(number)) for number in range(count))
    assert failed > 0
    assert done.returncode == 0
    assert f"{failed} of {count - WARM_UP} requests failed" in done.stderr
    assert message in done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["all"]["failed"] == failed == result["long"]["failed"] + result["short"]["failed"]


def test_exit_1_when_all_fail(server: Server, tmp_path: Path) -> None:
    server.fault = lambda number: "status"
    done = measure(server, "--duration-s", "0.5", "--json", str(tmp_path / "out.json"))
    assert done.returncode == 1
    assert "The first: HTTP 500: out of order" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_what_is_not_done_in_time_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mixed_load, "DRAIN_S", 0.1)
    server.fault = lambda number: "stall" if number >= WARM_UP else ""
    assert mixed_load.main([server.url, "fake", *SMALL, "--duration-s", "0.5"]) == 1
    assert "not done 0.1 s after the last arrival" in capsys.readouterr().err


def test_a_failed_warm_up_is_said_and_not_counted(server: Server) -> None:
    server.fault = lambda number: "status" if number < WARM_UP else ""
    done = measure(server, "--duration-s", "0.5")
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["A warm-up request failed: HTTP 500: out of order"] * WARM_UP


def test_the_numbers_come_from_the_chunks() -> None:
    good = record(sent=10.5)
    for now, chunk in (
        (12.0, {"choices": [{"text": "", "finish_reason": None}], "usage": None}),
        (12.25, {"choices": [{"text": "b", "finish_reason": None}]}),
        (12.75, {"choices": [{"text": "", "finish_reason": "length"}]}),
        (20.0, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
    ):
        good.read(f"data: {json.dumps(chunk)}", now)
        good.read("", now)
    good.read("data: [DONE]", 20.0)
    assert good.finished
    numbers = mixed_load.summary([good, record(sent=11.0, chunks=[11.5, 99.0], error="broken")], 2.0)
    assert (numbers["requests"], numbers["failed"], numbers["prompt_tokens_mean"]) == (2, 1, 7)
    assert numbers["ttft_s"] == {"p50": 1.5, "p90": 1.5, "p99": 1.5, "mean": 1.5}
    assert numbers["itl_ms"] == pytest.approx({"p50": 375, "p90": 475, "p99": 497.5, "max": 500})
    assert numbers["output_tokens_per_s"] == 1.5
    assert numbers["sent_late_max_ms"] == 1000


def test_a_class_without_requests_has_no_numbers() -> None:
    good = record(sent=10.0, chunks=[11.0], end=12.0, finished=True, output_tokens=1)
    result = mixed_load.report(options(), [good], 10.0)
    assert result["long"]["requests"] == 0
    assert result["long"]["ttft_s"]["p50"] is None
    assert mixed_load.table(result).splitlines()[1].split()[:5] == ["long", "0", "0", "-", "-"]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([3.0], 99, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.5),
        ([1.0, 2.0, 3.0], 50, 2.0),
        ([0.0, 10.0], 90, 9.0),
        ([5.0, 1.0], 0, 1.0),
        ([5.0, 1.0], 100, 5.0),
    ],
)
def test_percentile(values: list[float], percent: float, expected: float | None) -> None:
    assert mixed_load.percentile(values, percent) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("words", [["--reuse", "2"], ["--long-rate", "-1"], ["--short-tokens", "0"]])
def test_a_wrong_argument_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(*words)
    assert ended.value.code == 2


def test_no_request_due_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert mixed_load.main(["http://127.0.0.1:1", "fake", "--long-rate", "0", "--short-rate", "0"]) == 1
    assert "No request is due" in capsys.readouterr().err
