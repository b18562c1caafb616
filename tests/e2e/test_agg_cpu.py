"""The main job on real input: Dynamo's frontend, a real vLLM worker, LMCache, on the CPU."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from dynamoctl.host.processes import MARK, environment_of, identify, is_running
from dynamoctl.patches.lmcache_instance import process_of
from dynamoctl.state import DeploymentDir

from . import standing_still
from .conftest import (
    Cli,
    chat,
    first_on_path,
    free_port,
    freeze,
    is_open,
    outside,
    post,
    shared_memory,
    wait_for,
)
from .killing import kill_at_once
from .stores import BROKEN_LOADS
from .streams import InFlight

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("vllm-1"), pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
ENGINE = ["--", "--no-enable-prefix-caching"]
SEA = "The sea is wide and the sky is blue, said the sailor to his cat. "
LONG = SEA * 20  # one whole chunk of LMCache's, of 256 tokens, and some


# As beside a second worker: one thread, since other tests run beside this one, and bound to no core. The test
# of the tiers has the defaults.
CONFIG = """
drain_s = 60

[env]
VLLM_CPU_OMP_THREADS_BIND = "nobind"
OMP_NUM_THREADS = "1"
"""


class Up:
    """A deployment for the module: tests take it down, and another one brings it up again."""

    def __init__(self, cli: Cli, port: int, temporary: Path) -> None:
        self.cli, self.port = cli, port
        self.endpoint = f"http://127.0.0.1:{port}"
        # Its name is too long for vLLM's sockets.
        self.temporary = temporary
        path = first_on_path(BROKEN_LOADS)
        cli.environ |= {
            "TMPDIR": str(temporary), "BREAK_LOADS": str(temporary / "broken"), "PYTHONPATH": path,
        }  # fmt: skip
        self.memory_before, self.outside_before = shared_memory(), outside()
        self.config = temporary / "dynamoctl.toml"
        self.config.write_text(CONFIG)
        self.out = self.err = ""

    def plan(self, *more: str) -> list[str]:
        found = ("--device", "cpu", "--config", str(self.config), "--port", str(self.port), *more)
        return ["up", "agg", *found, *ENGINE]

    def bring_up(self) -> None:
        """`up agg` in a terminal that is closed as soon as it has returned."""
        leader, follower = os.openpty()
        terminal = subprocess.Popen(
            [sys.executable, "-m", "dynamoctl", *self.plan()],
            env=self.cli.env(),
            stdin=follower,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        os.close(follower)
        self.out, self.err = terminal.communicate(timeout=500)
        os.close(leader)  # the terminal is gone: whatever still hangs on it gets SIGHUP
        assert terminal.returncode == 0, self.err
        assert [unit["restarts"] for unit in self.units().values()] == [0, 0, 0]

    def units(self) -> dict[str, dict[str, Any]]:
        return {unit["name"]: unit for unit in self.cli.status()["units"]}

    def pids(self) -> dict[str, int]:
        return {name: unit["pid"] for name, unit in self.units().items()}

    def restarts(self, unit: str) -> int:
        return int(self.units()[unit]["restarts"])

    def is_ready(self) -> bool:
        return bool(self.cli.status()["state"] == "ready")

    def registered_with_lmcache(self) -> set[int]:
        """The pids of the worker processes that LMCache's server knows."""
        server = self.cli.units()["lmcache"]["ports"]["http"]
        with urllib.request.urlopen(f"http://127.0.0.1:{server}/status", timeout=60) as answer:
            instances = json.load(answer)["registered_non_cuda_instance_ids"]
        return {process_of(one)[0] for one in instances}


@pytest.fixture(scope="module")
def deployment(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    yield Up(cli, free_port(), tmp_path_factory.mktemp("temporary-files"))
    assert cli("down").code == 0


@pytest.fixture
def up(deployment: Up) -> Up:
    if not deployment.is_ready():
        deployment.bring_up()
    return deployment


def test_up_ends_with_an_endpoint(up: Up) -> None:
    assert f"endpoint: {up.endpoint}/v1" in up.out


def test_the_curl_line_that_up_prints_gets_the_right_answer(up: Up) -> None:
    line = next(line for line in up.out.splitlines() if line.startswith("curl "))
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout)["choices"][0]["message"]["content"]
    assert "Paris" in answer


def test_the_example_of_a_client_gets_the_right_answer(up: Up) -> None:
    script = Path(__file__).parents[2] / "examples/ask.py"
    done = subprocess.run(
        [script, "--endpoint", up.endpoint], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Paris" in done.stdout


def test_chat_asks_one_question(up: Up) -> None:
    words = ("chat", "What is the capital of France?", "--temperature", "0", "--max-tokens", "32")
    said = up.cli(*words)
    assert said.code == 0, said.err
    assert "Paris" in said.out
    body = up.cli(*words, "--json").json
    assert (body["schema"], body["model"]) == ("dynamoctl/chat/v1", MODEL)
    assert body["text"] == said.out.removesuffix("\n")
    assert 0 < body["ttft_s"] < body["seconds"]
    assert 0 < body["completion_tokens"] <= 32
    assert body["finish_reason"] in ("stop", "length")
    assert up.cli("chat").code == 2  # nothing comes from a pipe that is empty


def test_chat_goes_on_in_a_terminal(up: Up) -> None:
    leader, follower = os.openpty()
    talking = subprocess.Popen(
        [sys.executable, "-m", "dynamoctl", "chat", "--temperature", "0", "--max-tokens", "24"],
        env=up.cli.env(TERM="dumb"),
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(follower)
    said = ""

    def hears(what: str) -> bool:
        nonlocal said
        while select.select([leader], [], [], 0)[0]:
            said += os.read(leader, 4096).decode()
        return what in said

    try:
        for _ in range(2):
            wait_for(lambda: hears("> "))
            said = ""
            os.write(leader, b"What is the capital of France?\n")
            wait_for(lambda: hears("Paris"))
        wait_for(lambda: hears("> "))
        os.write(leader, b"\n")
        _, err = talking.communicate(timeout=60)
    finally:
        talking.kill()
        os.close(leader)
    assert talking.returncode == 0
    assert f"{MODEL} at {up.endpoint}" in err
    assert err.count("tokens in") == 2


def test_status_says_ready(up: Up) -> None:
    body = up.cli("status", "--json").json
    assert (body["ok"], body["state"], body["mode"], body["model"]) == (True, "ready", "agg", MODEL)
    assert body["endpoint"] == up.endpoint
    assert body["warnings"] == []  # LMCache was verified: it returned what it had stored
    assert [(unit["name"], unit["role"]) for unit in body["units"]] == [
        ("frontend", "frontend"),
        ("lmcache", "cache"),
        ("worker-0", "agg"),
    ]
    for unit in body["units"]:
        assert (unit["state"], unit["health"]) == ("ready", "ok")
        assert identify(unit["pid"]) is not None
        assert unit["uptime_s"] > 0


def test_status_for_people_names_every_unit(up: Up) -> None:
    shown = up.cli("status")
    assert shown.code == 0
    for words in ("ready", "frontend", "lmcache", "worker-0", MODEL, up.endpoint):
        assert words in shown.out
    assert "\x1b" not in shown.out


def test_each_unit_is_in_a_session_and_folder_of_its_own(up: Up) -> None:
    for unit in up.cli.status()["units"]:
        assert os.getsid(unit["pid"]) == unit["pid"]
        assert Path(f"/proc/{unit['pid']}/cwd").readlink().name == unit["name"]


def test_the_deployment_is_the_users_alone(up: Up) -> None:
    folder = up.cli.home / "deployments/default"
    assert folder.stat().st_mode & 0o777 == 0o700
    for private in ("control.sock", "plan.json", "state.json", "logs/worker-0.log", "logs/frontend.log"):
        assert (folder / private).stat().st_mode & 0o077 == 0, private


@pytest.mark.parametrize(("method", "path"), [("GET", "/env"), ("POST", "/run_script")])
def test_lmcaches_server_tells_nobody_its_environment_and_runs_nobodys_code(
    up: Up, method: str, path: str
) -> None:
    port = up.cli.units()["lmcache"]["ports"]["http"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", b"" if method == "POST" else None)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    refused.value.close()
    assert refused.value.code == 404


def test_a_long_prompt_asked_again_hits_lmcache(up: Up) -> None:
    """The engine's own prefix cache is off here, so only LMCache can answer."""
    before = up.cli.status()["cache"]
    first = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    second = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    after = up.cli.status()["cache"]
    assert first == second
    assert after["hit_tokens"] - before["hit_tokens"] >= 256
    assert 0 < after["hit_rate"] <= 1


def test_a_seed_gives_the_same_answer_again(up: Up) -> None:
    pids = up.pids()
    body = {"model": MODEL, "prompt": "The sea is wide", "max_tokens": 6, "temperature": 1.0, "seed": 3}
    answers = [post(f"{up.endpoint}/v1/completions", body) for _ in range(2)]
    assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"] != ""
    assert up.pids() == pids


def test_clients_with_a_salt_of_their_own_do_not_find_each_others_prompts(up: Up) -> None:
    """LMCache gets a digest of it."""

    def found(salt: str) -> bool:
        before = up.cli.status()["cache"]["hit_tokens"]
        question = {"role": "user", "content": LONG.replace("sea", "lake")}
        body = {"model": MODEL, "messages": [question], "max_tokens": 4, "nvext": {"cache_salt": salt}}
        assert post(f"{up.endpoint}/v1/chat/completions", body)["choices"]
        chat(up.endpoint, MODEL, "Hello", max_tokens=2)  # the engine publishes its counters a step later
        return bool(up.cli.status()["cache"]["hit_tokens"] - before >= 256)

    assert [found(salt) for salt in ("one client", "one client", "another", "one client")] == [
        False,
        True,
        False,
        True,
    ]


def test_what_lmcache_promises_and_does_not_bring_is_computed(up: Up) -> None:
    """vLLM's default fails the request, and beside a cache server the engine ended with it."""
    recovered, broken = "Recovered from KV load failure", Path(up.cli.environ["BREAK_LOADS"])
    pids = up.pids()
    first = chat(up.endpoint, MODEL, LONG, max_tokens=4)
    broken.touch()
    try:
        assert [chat(up.endpoint, MODEL, LONG, max_tokens=4) for _ in range(2)] == [first] * 2
    finally:
        broken.unlink()
    log = up.cli.home / "deployments/default/logs/worker-0.log"
    assert log.read_text(errors="replace").count(recovered) == 2
    # The engine is the same, and loads again.
    before = up.cli.status()["cache"]
    assert chat(up.endpoint, MODEL, LONG, max_tokens=4) == first
    after = up.cli.status()["cache"]
    assert up.pids() == pids
    assert after["hit_tokens"] - before["hit_tokens"] >= 256


def test_cache_check_proves_a_hit_with_both_times_to_the_first_token(up: Up) -> None:
    done = up.cli("cache", "check", "--json")
    assert done.code == 0, done.err
    check = done.json["check"]
    assert 512 <= check["hit_tokens"] <= check["prompt_tokens"]
    assert check["prefix_cache_cleared"] is True
    assert check["same_answer"] is True
    assert check["ttft_first_s"] > 0
    assert check["ttft_last_s"] > 0


def test_bench_reuse_finds_in_lmcache_what_the_first_pass_stored(up: Up, tmp_path: Path) -> None:
    words = ("bench", "reuse", "--documents", "2", "--document-tokens", "320", "--output-tokens", "3")
    done = up.cli(*words, "--json", "--output", str(tmp_path / "reuse.json"))
    assert done.code == 0, done.out + done.err
    body = done.json
    assert json.loads((tmp_path / "reuse.json").read_text()) == body
    assert (body["schema"], body["ok"], body["forgotten_by"]) == ("dynamoctl/bench/v1", True, "reset")
    first, again = body["passes"]
    for one in (first, again):
        assert (one["requests"], one["failed"], one["output_tokens"]) == (2, 0, 6)
        assert one["ttft_s"]["p50"] <= one["ttft_s"]["p99"] <= one["seconds"]
        assert one["counted"]["prefix_hit_tokens"] == 0
        assert one["counted"]["memory_mib"]["worker-0"] > 100
    assert (first["counted"]["lmcache_hit_tokens"], again["counted"]["lmcache_hit_tokens"]) == (0, 512)


def test_bench_fails_with_the_requests_that_fail(up: Up) -> None:
    failed = up.cli("bench", "random", "--requests", "2", "--input-tokens", "4000", "--json")
    assert failed.code == 1
    body = failed.json
    assert (body["ok"], body["error"]["message"]) == (False, "2 of 2 requests failed")
    assert body["passes"][0]["errors"] == {"Bad Request": 2}
    assert "--max-model-len" in body["error"]["hint"]


def test_cache_clear_takes_what_lmcache_had(up: Up) -> None:
    def hits() -> int:
        """Of a long chat, asked once more. An engine publishes what it counts a step later."""
        counts = []
        for prompt in ("Hello", LONG, "Hello"):
            chat(up.endpoint, MODEL, prompt, max_tokens=4)
            counts.append(int(up.cli.status()["cache"]["hit_tokens"]))
        return counts[-1] - counts[0]

    wait_for(hits)  # a store ends after its request's answer
    cleared = up.cli("cache", "clear", "--json")
    assert cleared.json["kept"] == []
    assert hits() == 0
    wait_for(hits)


@pytest.mark.fault(
    "SIGKILL to LMCache's server", "restarts it; requests go on without a cache, then hit again"
)
def test_a_cache_server_that_is_killed_comes_back_and_hits_again(up: Up) -> None:
    """By LMCache's default the worker would have waited for it for 300 s, and answered nobody."""
    before = up.restarts("lmcache")
    os.kill(up.pids()["lmcache"], signal.SIGKILL)
    assert chat(up.endpoint, MODEL, LONG, max_tokens=4)
    wait_for(lambda: up.restarts("lmcache") == before + 1 and up.is_ready())
    shown = wait_for(lambda: (check := up.cli("cache", "check")).code == 0 and check.out)
    lines = (
        r"LMCache gave back [\d,]+ of [\d,]+ tokens",
        "the answer was the same",
        "time to the first token: ",
    )
    assert re.match("\n".join(lines), shown)
    # Its pool is gone with it.
    assert len([one for one in shared_memory() - up.memory_before if "lmcache_l1_pool" in one]) == 1


@pytest.mark.fault(
    "SIGSTOP to a vLLM worker for 16 s", "serves again when it goes on, out of discovery until then"
)
def test_an_engine_that_was_frozen_goes_on(up: Up) -> None:
    """By itself it would have lost its registration after 10 s, and served nobody for good."""
    before = up.pids()
    freeze([before["worker-0"]], 16)
    wait_for(up.is_ready, 30)
    assert "Paris" in chat(up.endpoint, MODEL, "What is the capital of France?")
    assert up.pids() == before
    assert up.is_ready()


@pytest.mark.fault("a vLLM worker computes its longest prompts, many at once", "is ready all the time")
@pytest.mark.fault(
    "SIGSTOP for good to a vLLM worker's resource tracker", "nothing: it has nothing to do until the end"
)
def test_a_busy_worker_is_not_taken_for_one_that_hangs(up: Up) -> None:
    """Nor does it matter to it, or to anybody, that its resource tracker stands still."""
    longest, restarts, states = SEA * 110, up.restarts("worker-0"), set()

    def ask(number: int) -> int:
        body = {"model": MODEL, "prompt": f"{number}. {longest}", "max_tokens": 40, "ignore_eos": True}
        # All of them at once take minutes on a machine that is busy with something else as well.
        answer = post(f"{up.endpoint}/v1/completions", body, patience_s=400)
        return int(answer["usage"]["completion_tokens"])

    tracker = standing_still.Up(up.cli, up.port).stopped(f"worker-0/{standing_still.TRACKER}")
    with tracker, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, number) for number in range(3)]
        began = time.monotonic()
        while not all(one.done() for one in asked) or time.monotonic() - began < standing_still.SEEN_S:
            states.add((up.cli.status()["state"], *(unit["state"] for unit in up.units().values())))
            time.sleep(1)
        print(f"busy for {time.monotonic() - began:.0f} s")
        assert [one.result() for one in asked] == [40] * 3
        assert "Paris" in chat(up.endpoint, MODEL, "What is the capital of France?")
    assert states == {("ready",) * 4}
    assert up.restarts("worker-0") == restarts


def test_up_again_with_the_same_plan_says_so(up: Up) -> None:
    again = up.cli(*up.plan())
    assert again.code == 0, again.err
    assert "already up" in again.err
    as_json = up.cli(*up.plan("--json")).json
    assert as_json["already_up"] is True
    assert as_json["endpoint"] == up.endpoint


def test_up_again_with_another_plan_says_what_differs(up: Up) -> None:
    other = up.cli(*up.plan("--no-lmcache"))
    assert other.code == 2
    assert "lmcache.enabled: is True, requested False" in other.err


def test_doctor_does_not_hold_a_deployment_against_itself(up: Up) -> None:
    done = up.cli("doctor", *up.plan("--json")[1:-2])
    assert done.code == 0, done.out
    found = {one["check"]: one for one in done.json["findings"]}
    assert found["deployment"]["what"].startswith("'default' is ready")
    assert "HTTP port" not in found
    other = up.cli("doctor", "agg", "--device", "cpu", "--port", str(up.port), "-n", "other")
    assert other.code == 3
    assert f"HTTP port {up.port} is taken by process" in other.out


def test_a_second_deployment_on_the_same_port_is_refused_and_names_the_holder(up: Up) -> None:
    refused = up.cli("up", "agg", "--device", "cpu", "--port", str(up.port), "-n", "second")
    assert refused.code == 3
    frontend = next(u["pid"] for u in up.cli.status()["units"] if u["role"] == "frontend")
    assert f"process {frontend}" in refused.err
    assert "dynamo.frontend" in refused.err


def test_logs_have_the_units_names(up: Up) -> None:
    shown = up.cli("logs", "--lines", "3")
    assert shown.code == 0
    assert {line.split()[0] for line in shown.out.splitlines() if line} >= {"frontend", "worker-0"}
    one = up.cli("logs", "worker-0", "--lines", "0")
    assert "Loading weights took" in one.out


def test_logs_follow(up: Up) -> None:
    following = up.cli.start("logs", "worker-0", "-f", "--lines", "0")
    try:
        assert following.stdout is not None
        post(f"{up.endpoint}/v1/completions", {"model": MODEL, "prompt": "Hello", "max_tokens": 2})
        assert "request received" in _until(following, "request received")
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
    assert following.returncode == 130


def _until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return line
    return ""


@pytest.mark.fault("SIGKILL to an engine worker of vLLM's", "restarts the worker; ready again")
def test_a_process_of_the_engine_that_is_killed_comes_back_with_its_worker(up: Up) -> None:
    """Its EngineCore too: that is killed in `test_migration`."""
    before, restarts = up.pids(), up.restarts("worker-0")
    (engine,) = [pid for pid, line in up.cli.ours().items() if "VLLM::Worker" in line]
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: up.restarts("worker-0") == restarts + 1 and up.is_ready())
    assert "Paris" in chat(up.endpoint, MODEL, "What is the capital of France?")
    after = up.pids()
    assert {name for name in before if after[name] != before[name]} == {"worker-0"}
    # LMCache's server keeps nothing of the one that died.
    registered = up.registered_with_lmcache()
    assert registered
    assert registered <= up.cli.ours().keys()


@pytest.mark.fault(
    "vLLM, LMCache, trackers and supervisor are killed at once, then `up`",
    "`up` removes what they have left, and starts over",
)
def test_up_removes_what_those_that_were_killed_at_once_have_left(up: Up) -> None:
    assert kill_at_once(up.cli, "default")
    left = outside() - up.outside_before
    assert {path.rpartition("/")[2].partition("_")[0] for path in left} >= {"lmcache", "psm"}
    again = up.cli(*up.plan("--json", "--standby"))  # for the next test
    assert again.code == 0, again.err
    assert again.json["warnings"] == []
    assert left & outside() == set()
    assert len([name for name in shared_memory() if name.startswith("lmcache_l1_pool_")]) == 1
    assert "Paris" in chat(up.endpoint, MODEL, "What is the capital of France?")


@pytest.mark.fault("SIGKILL to a worker that has a standby", "the standby becomes the worker; ready again")
def test_the_standby_of_a_killed_worker_takes_its_place(up: Up) -> None:
    plan = json.loads((up.cli.home / "deployments" / "default" / "plan.json").read_text())["plan"]
    if not plan["standby"]:  # the test before was not run
        assert up.cli("down").code == 0
        assert up.cli(*up.plan("--standby")).code == 0
    wait_for(lambda: up.units()["worker-0"]["standby"] == "ready")
    before, restarts = up.pids(), up.restarts("worker-0")
    marks = {pid: environment_of(pid, MARK) or "" for pid in up.cli.ours()}
    own = marks[before["worker-0"]]
    (standby,) = [pid for pid, mark in marks.items() if "/worker-0~" in mark and mark != own]
    os.kill(before["worker-0"], signal.SIGKILL)
    wait_for(lambda: up.restarts("worker-0") == restarts + 1 and up.is_ready())
    assert up.pids() == {**before, "worker-0": standby}
    assert "Paris" in chat(up.endpoint, MODEL, "What is the capital of France?")
    # Its processes are forked, by the server of the standby that it was.
    (engine,) = [pid for pid, line in up.cli.ours().items() if "VLLM::EngineCore" in line]
    assert up.cli.ours()[psutil.Process(engine).ppid()].startswith("fork server")
    assert environment_of(engine, MARK) == environment_of(standby, MARK)


@pytest.mark.fault("`down` while vLLM answers requests", "they end whole, within `--drain`")
def test_down_from_another_process_lets_requests_end_and_leaves_nothing(up: Up) -> None:
    state = DeploymentDir("default")
    state.path = up.cli.home / "deployments" / "default"
    recorded = state.read_state()
    assert recorded is not None
    ports = [port for unit in recorded.units for port in unit.ports.values()]
    identities = [unit.identity for unit in recorded.units if unit.identity]
    assert len(identities) == 3
    streams = InFlight(up.endpoint, MODEL, ["Once upon a time", "A long time ago"], 120)
    streams.wait_until(lambda one: one.chunks >= 5, 2)
    down = up.cli("down")
    assert down.code == 0, down.err
    answers = streams.end(10)
    assert all(one.is_whole(120) for one in answers), answers
    assert up.cli.ours() == {}
    assert not any(is_running(one) for one in identities)
    assert not any(is_open(port) for port in ports)
    assert shared_memory() - up.memory_before == set()
    assert [path for path in up.temporary.iterdir() if path.is_socket()] == []
    assert not state.store.exists()
    assert up.cli.status()["state"] == "stopped"
    again = up.cli("down")
    assert (again.code, "not running" in again.err) == (0, True)


def test_a_model_whose_config_is_broken_fails_at_once_with_its_last_lines(cli: Cli, tmp_path: Path) -> None:
    """A worker that dies while it loads: exit code 4, its log's end, nothing left."""
    config = {"architectures": ["NoSuchForCausalLM"], "model_type": "no_such", "eos_token_id": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).touch()
    failed = cli(
        "up", "agg", "--device", "cpu", "--model", str(tmp_path), "-n", "broken", "--port", str(free_port()),
        "--no-lmcache",
    )  # fmt: skip
    assert failed.code == 4
    assert "worker-0 ended" in failed.err
    assert "no_such" in failed.err
    assert "worker-0.log" in failed.err
    assert cli.ours() == {}
    body = cli.status("broken")
    assert body["state"] == "failed"
    assert body["error"]["code"] == 4
    assert {unit["name"]: unit["state"] for unit in body["units"]}["worker-0"] == "failed"


# vLLM's compilation, which dynamoctl turns off on a CPU, and which takes a minute and more there. It begins
# sooner with threads that are bound to no cores: the engine forks its worker, which imports nothing again.
COMPILING = """
[env]
VLLM_CPU_OMP_THREADS_BIND = "nobind"
TORCHDYNAMO_DISABLE = "0"
VLLM_CACHE_ROOT = "{folder}/vllm"
TORCHINDUCTOR_CACHE_DIR = "{folder}/inductor"
"""


@pytest.mark.parametrize(
    ("number", "phases", "engine"),
    [
        pytest.param(
            number, phases, engine, marks=pytest.mark.fault(what, f"takes it down; exit {128 + number}")
        )
        for number, phases, engine, what in (
            (
                signal.SIGINT,
                ("starting the engine", "loading weights"),
                (),
                "Ctrl-C to `up` while vLLM loads",
            ),
            (
                signal.SIGTERM,
                ("compiling", "warming up"),
                ("--", "--no-enforce-eager"),
                "SIGTERM to `up` while vLLM compiles",
            ),
        )
    ],
)
def test_up_that_is_broken_off_in_the_engine_leaves_nothing(
    cli: Cli, tmp_path: Path, number: signal.Signals, phases: tuple[str, ...], engine: tuple[str, ...]
) -> None:
    name, config = f"broken-off-{int(number)}", tmp_path / "d.toml"
    config.write_text(COMPILING.format(folder=tmp_path) if engine else "")
    starting = cli.start(
        "up", "agg", "-n", name, "--port", str(free_port()), "--config", str(config), *engine
    )  # fmt: skip
    wait_for(lambda: any(unit["phase"] in phases for unit in cli.status(name)["units"]))
    starting.send_signal(number)
    starting.communicate(timeout=120)
    assert starting.returncode == 128 + number
    assert cli.ours() == {}
    assert cli.status(name)["state"] == "stopped"
