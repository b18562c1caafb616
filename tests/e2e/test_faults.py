"""Faults with Dynamo's mocker and with stand-ins: what was started comes back or goes; nothing is left."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.host.processes import boot_id, identify
from dynamoctl.planner.plan import DeploymentPlan

from .conftest import Cli, Result, chat, first_on_path, free_port, post, wait_for
from .stand_ins import SERVE, reap, stand_in, supervise

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"
MEMORY = Path("/sys/fs/cgroup/memory")


def words(name: str, *more: str) -> tuple[str, ...]:
    quick = ("--engine", "mocker", "--start", "overlapped", "--drain", "0")
    return ("up", "agg", *quick, "-n", name, "--port", str(free_port()), *more)


def up(cli: Cli, name: str, *more: str) -> Result:
    done = cli(*words(name, *more))
    assert done.code == 0, done.err
    return done


def down(cli: Cli, name: str) -> None:
    done = cli("down", "-n", name)
    assert done.code == 0, done.err
    assert cli.ours(name) == {}


def pids(cli: Cli, name: str) -> dict[str, int]:
    return {unit["name"]: unit["pid"] for unit in cli.status(name)["units"]}


def is_back(cli: Cli, name: str, unit: str, killed: int) -> bool:
    """Whether all is ready again with another process; asked once, so that it is one moment."""
    body = cli.status(name)
    now = {one["name"]: one["pid"] for one in body["units"]}[unit]
    return body["state"] == "ready" and now not in (killed, None)


def has_begun(cli: Cli, name: str) -> bool:
    """Whether its first unit has been started."""
    return any("dynamo.frontend" in line for line in cli.ours(name).values())


def answers(endpoint: str) -> bool:
    try:
        return bool(chat(endpoint, MODEL, "Hello", max_tokens=4))
    except OSError:
        return False


@pytest.fixture(autouse=True, scope="module")
def _supervisors_are_reaped() -> Iterator[None]:
    yield
    reap()


# ---- SIGKILL --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split(cli: Cli) -> Iterator[str]:
    """A disaggregated deployment; its endpoint."""
    port = free_port()
    done = cli(
        "up", "disagg", "--engine", "mocker", "-n", "split", "--port", str(port), "--start", "overlapped",
        "--drain", "0",
    )  # fmt: skip
    assert done.code == 0, done.err
    yield f"http://127.0.0.1:{port}"
    down(cli, "split")


@pytest.mark.xdist_group("split")
@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(
            unit, marks=pytest.mark.fault(f"SIGKILL to {who}", f"restarts it, the others go on; {flight}")
        )
        for unit, who, flight in (
            ("frontend", "the frontend", "what was in flight gets an error"),
            ("decode-0", "the decode worker", "what was in flight gets an error"),
            ("prefill-0", "the prefill worker", "what was in flight ends"),
        )
    ],
)
def test_a_killed_unit_comes_back_and_what_was_in_flight_ends(cli: Cli, split: str, unit: str) -> None:
    before = pids(cli, "split")
    ended: list[bool] = []

    def ask() -> None:
        # 4,000 tokens take the mocker longer than what follows.
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 4000, "ignore_eos": True}
        try:
            post(f"{split}/v1/completions", body)
            ended.append(True)
        except OSError:
            ended.append(False)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1)
    os.kill(before[unit], signal.SIGKILL)
    asking.join(60)
    assert not asking.is_alive()  # an answer or an error, and no hang
    assert len(ended) == 1
    wait_for(lambda: is_back(cli, "split", unit, before[unit]))
    # Dynamo 1.6.1 says that the model is ready some tenths of a second before its prefill router is.
    wait_for(lambda: answers(split), 10)
    after = pids(cli, "split")
    assert {name for name in before if after[name] != before[name]} == {unit}


@pytest.mark.fault("SIGKILL to `up` in the middle", "the start goes on; `down` ends it")
def test_an_up_that_is_killed_does_not_take_the_start_with_it(cli: Cli) -> None:
    starting = cli.start(*words("killed-up"))
    wait_for(lambda: has_begun(cli, "killed-up"), 60)
    starting.kill()
    starting.communicate(timeout=60)
    wait_for(lambda: cli.status("killed-up")["state"] == "ready")
    down(cli, "killed-up")


@pytest.mark.fault("SIGKILL to `up` before its supervisor has begun", "`down` ends what there is")
def test_down_finds_a_supervisor_that_has_written_nothing_yet(cli: Cli) -> None:
    starting = cli.start(*words("early"))
    wait_for(lambda: cli.ours("early"), 60)
    starting.kill()
    starting.communicate(timeout=60)
    down(cli, "early")


@pytest.mark.fault("SIGKILL to `down` in the middle", "the supervisor goes on with it; a later `down` is 0")
def test_a_down_that_is_killed_is_finished(cli: Cli) -> None:
    up(cli, "killed-down")
    going = cli.start("down", "-n", "killed-down")
    wait_for(lambda: cli.status("killed-down")["state"] != "ready", 60)
    going.kill()
    going.communicate(timeout=60)
    down(cli, "killed-down")


@pytest.mark.fault("`down` during `up`", "takes it down (0); `up` ends with 4 and says so")
def test_down_during_up(cli: Cli) -> None:
    starting = cli.start(*words("meanwhile"))
    wait_for(lambda: has_begun(cli, "meanwhile"), 60)
    down(cli, "meanwhile")
    _, err = starting.communicate(timeout=60)
    assert starting.returncode == 4
    assert "'meanwhile' was taken down while it started" in err


@pytest.mark.fault("two `down` at once", "both end with 0 when it is down")
def test_two_downs_at_once(cli: Cli) -> None:
    up(cli, "two-downs")
    both = [cli.start("down", "-n", "two-downs") for _ in range(2)]
    said = [one.communicate(timeout=120)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert cli.status("two-downs")["state"] == "stopped"


# ---- state that does not fit ----------------------------------------------------------------


def killed_altogether(cli: Cli, name: str) -> dict[str, Any]:
    """As a power failure does: nothing has had time to write a word. Gives back the state file."""
    up(cli, name)
    os.kill(cli.supervisor(name), signal.SIGKILL)
    for pid in pids(cli, name).values():
        os.killpg(pid, signal.SIGKILL)
    wait_for(lambda: cli.status(name)["state"] == "stopped", 30)
    body: dict[str, Any] = json.loads((cli.home / "deployments" / name / "state.json").read_text())
    assert body["state"] == "ready"
    return body


@pytest.mark.fault("everything is killed at once, then `up`", "`up` starts over")
def test_up_after_a_crash_with_the_old_state_there(cli: Cli) -> None:
    killed_altogether(cli, "crashed")
    up(cli, "crashed")
    down(cli, "crashed")


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any deployment."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=pytest.mark.fault(row, "`status` says stopped; `down` signals nobody"))
        for what, row in (
            ("boot", "a reboot: the state names another boot"),
            ("pid", "a pid is used again by another process"),
        )
    ],
)
def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(cli: Cli, what: str) -> None:
    body = killed_altogether(cli, f"reused-{what}")
    with stranger() as other:
        now = identify(other.pid)
        assert now is not None
        changed = {"pid": now.pid, "start_ticks": now.start_ticks, "boot_id": boot_id()}
        changed |= {"boot_id": "another"} if what == "boot" else {"start_ticks": now.start_ticks - 1}
        for owner in (body, *body["units"]):
            owner["supervisor" if owner is body else "identity"] = changed
        (cli.home / f"deployments/reused-{what}/state.json").write_text(json.dumps(body))
        assert cli.status(f"reused-{what}")["state"] == "stopped"
        assert cli("down", "-n", f"reused-{what}").code == 0
        assert other.poll() is None


@pytest.mark.fault("the clock jumps by an hour, back or ahead", "restarts and deadlines do not notice")
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps(cli: Cli, tmp_path_factory: pytest.TempPathFactory, hours: int) -> None:
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(f"""
import time
plain, began = time.time, time.monotonic()
time.time = lambda: plain() + (3600 * {hours} if time.monotonic() - began > 2 else 0)
""")
    name = f"clock{hours}"
    path = first_on_path(folder)
    stand_in(cli, name, SERVE)
    supervise(cli, name, PYTHONPATH=path)
    wait_for(lambda: cli.status(name)["state"] == "ready", 60)
    time.sleep(3)
    os.kill(pids(cli, name)["worker-0"], signal.SIGKILL)
    wait_for(lambda: [unit["restarts"] for unit in cli.status(name)["units"]] == [0, 1], 60)
    body = wait_for(lambda: (b := cli.status(name))["state"] == "ready" and b, 60)
    assert all(unit["uptime_s"] >= 0 for unit in body["units"])
    down(cli, name)


@pytest.mark.fault("the state file is garbage or cut off", "`status` says damaged (1); `down` removes all")
def test_a_damaged_state_file(cli: Cli) -> None:
    up(cli, "damaged")
    state = cli.home / "deployments/damaged/state.json"
    for garbage in ('{"version": 1}', '{"version": 99}', '{"version": 1, "units": [', ""):
        state.write_text(garbage)
        shown = cli("status", "-n", "damaged")
        assert shown.code == 1
        assert "dynamoctl down -n damaged" in shown.err
    down(cli, "damaged")
    assert cli.status("damaged")["state"] == "stopped"


@pytest.mark.fault("state and plan are garbage, the supervisor is dead", "`down` removes all, by its marks")
def test_damaged_files_and_no_supervisor(cli: Cli) -> None:
    up(cli, "ruined")
    folder = cli.home / "deployments/ruined"
    os.kill(cli.supervisor("ruined"), signal.SIGKILL)
    for name in ("state.json", "plan.json"):
        (folder / name).write_text("{")
    down(cli, "ruined")
    assert cli.status("ruined")["state"] == "stopped"


@pytest.mark.fault("the deployment's whole folder is deleted", "it goes on; `down` removes all")
def test_a_deleted_folder(cli: Cli) -> None:
    up(cli, "deleted")
    folder = cli.home / "deployments/deleted"
    before = cli.status("deleted")
    shutil.rmtree(folder, ignore_errors=True)  # something may be written at this moment
    wait_for(lambda: (folder / "plan.json").exists() and (folder / "state.json").exists(), 60)
    after = cli.status("deleted")
    assert [unit["pid"] for unit in after["units"]] == [unit["pid"] for unit in before["units"]]
    shutil.rmtree(folder, ignore_errors=True)
    down(cli, "deleted")


# ---- a host that has run out ----------------------------------------------------------------


class Elsewhere(Cli):
    """dynamoctl in a mount namespace where its home is a file system of its own."""

    def __init__(self, home: Path, options: str) -> None:
        super().__init__(home)
        script = f'mount -t tmpfs -o {options} none "$0" && echo there && exec sleep 600'
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, str(home)], stdout=subprocess.PIPE, text=True
        )
        assert self.holder.stdout is not None
        self.mounted = self.holder.stdout.readline() == "there\n"

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", *argv]

    def __call__(self, *words: str, **_: Any) -> Result:
        try:
            done = subprocess.run(
                self.inside(sys.executable, "-m", "dynamoctl", *words),
                env=self.env(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # Once it is unmounted, nobody can look there any more.
            there = self.shell('cat "$0"/deployments/*/state.json; tail -n 30 "$0"/deployments/*/logs/*.log')
            pytest.fail(f"{words} does not end:\n{there}")
        assert "Traceback" not in done.stderr + done.stdout, done.stderr + done.stdout
        return Result(done.returncode, done.stdout, done.stderr)

    def shell(self, script: str) -> str:
        words = self.inside("sh", "-c", script, str(self.home))
        return subprocess.run(words, check=False, capture_output=True, text=True).stdout


@contextmanager
def elsewhere(home: Path, options: str) -> Iterator[Elsewhere]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    home.mkdir()
    one = Elsewhere(home, options)
    try:
        if not one.mounted:
            pytest.skip("no file system may be mounted here")
        yield one
        assert one.ours() == {}
    finally:
        one.holder.kill()
        one.holder.communicate()


@pytest.mark.parametrize(
    ("options", "before", "says"),
    [
        pytest.param(
            options, before, says, marks=pytest.mark.fault(fault, "exit 3 and what to do; nothing is started")
        )
        for options, before, says, fault in (
            ("ro", "true", "DYNAMOCTL_HOME", "the state folder cannot be written"),
            ("size=64k", 'cat /dev/zero > "$0/full"', "No space left", "the disk is full before a start"),
        )
    ],
)
def test_a_home_that_can_take_nothing(cli: Cli, tmp_path: Path, options: str, before: str, says: str) -> None:
    with elsewhere(tmp_path / "home", options) as one:
        one.shell(before)
        refused = one(*words("default"))
        assert refused.code == 3, refused.err
        assert says in refused.err


@pytest.mark.fault("the disk runs full while it serves", "goes on and restarts what dies; `down` removes all")
def test_a_disk_that_runs_full(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    with elsewhere(tmp_path_factory.mktemp("full") / "home", "size=4m") as one:
        started = one(*words("default"), "--json")
        assert started.code == 0, started.err
        endpoint = started.json["endpoint"]
        before = {unit["name"]: unit["pid"] for unit in one("status", "--json").json["units"]}
        one.shell('cat /dev/zero > "$0/full"')
        os.kill(before["worker-0"], signal.SIGKILL)
        wait_for(lambda: not answers(endpoint), 60)
        # Discovery is in files, too: a worker that was away is found when there is room again.
        time.sleep(15)
        one.shell('rm "$0/full"')
        wait_for(lambda: answers(endpoint))
        wait_for(lambda: one("status", "--json").json["state"] == "ready", 60)
        gone = one("down")
        assert gone.code == 0, gone.err


@pytest.mark.fault("no file descriptors before a start", "exit 3 and what to do; nothing is started")
def test_too_few_descriptors_before_a_start(cli: Cli) -> None:
    refused = subprocess.run(
        ["prlimit", "--nofile=100:100", sys.executable, "-m", "dynamoctl", *words("few")],
        env=cli.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert refused.returncode == 3, refused.stderr
    assert "no more than 100 files and sockets" in refused.stderr
    assert cli.ours("few") == {}


@pytest.mark.fault("the supervisor runs out of file descriptors", "goes on when there are some again")
def test_a_supervisor_without_descriptors(cli: Cli) -> None:
    up(cli, "starved")
    pid = cli.supervisor("starved")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # Fewer than it has: it can open nothing.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(pids(cli, "starved")["worker-0"], signal.SIGKILL)
    cli.status("starved")  # it cannot be heard now
    time.sleep(12)
    log = cli.home / "deployments/starved/logs/supervisor.log"
    assert log.stat().st_size < 100_000, "it has said the same again and again"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: (b := cli.status("starved"))["state"] == "ready" and b["units"][1]["restarts"])
    assert answers(cli.status("starved")["endpoint"])
    down(cli, "starved")


@pytest.mark.fault("a worker takes more memory than its cgroup has", "restarts it, and says SIGKILL")
def test_a_worker_that_is_out_of_memory(cli: Cli) -> None:
    """The kernel kills it, as it does where the whole machine has none left."""
    group = MEMORY / f"dynamoctl-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 * 1024 * 1024))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    greedy = """
import os, signal, threading
def eat(*_):
    held = []
    while True:
        held.append(b"x" * 1024 * 1024)
signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=eat).start())
"""
    try:
        stand_in(cli, "greedy", greedy + SERVE)
        supervise(cli, "greedy")
        wait_for(lambda: cli.status("greedy")["state"] == "ready", 60)
        worker = pids(cli, "greedy")["worker-0"]
        (group / "cgroup.procs").write_text(str(worker))
        os.kill(worker, signal.SIGUSR1)
        state = cli.home / "deployments/greedy/state.json"
        wait_for(lambda: json.loads(state.read_text())["units"][1]["exit"] == "SIGKILL", 60)
        wait_for(lambda: cli.status("greedy")["state"] == "ready", 60)
        down(cli, "greedy")
    finally:
        with suppress(OSError):
            group.rmdir()


# ---- workers that end ------------------------------------------------------------------------


def failed(cli: Cli, name: str, patience_s: float = 60) -> dict[str, Any]:
    body: dict[str, Any] = wait_for(lambda: (b := cli.status(name))["state"] == "failed" and b, patience_s)
    return body


@pytest.mark.fault("a port is stolen between plan and start", "fails at once (4) with its last lines")
def test_a_port_that_is_stolen_between_plan_and_start(cli: Cli) -> None:
    port = stand_in(cli, "stolen", SERVE)
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", port))
        thief.listen()
        supervise(cli, "stolen")
        state = cli.home / "deployments/stolen/state.json"
        wait_for(lambda: state.exists() and json.loads(state.read_text())["error"], 60)
        error = json.loads(state.read_text())["error"]
        assert error["code"] == 4
        assert "Address already in use" in error["hint"]  # in the stand-in's traceback
        down(cli, "stolen")


class ReadyWorker(BaseHTTPRequestHandler):
    """Answers as the status server of a worker that is ready."""

    def do_GET(self) -> None:
        body = b'{"status": "ready", "endpoints": {"generate": "ready"}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.fault(
    "a worker's port is stolen by another deployment's worker", "fails at once (4), and says who has it"
)
def test_a_port_that_is_stolen_by_one_who_answers(cli: Cli) -> None:
    """Dynamo's worker logs that it has lost its port, and runs on; at its port another says ready."""
    asked = cli(*words("twin"), "--dry-run", "--json")
    plan = DeploymentPlan.from_json(asked.json)
    folder = cli.home / "deployments/twin"
    (folder / "store").mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"start_id": f"twin-{os.getpid()}", "plan": plan.as_json()}))
    port = plan.unit("worker-0").gate.port
    with ThreadingHTTPServer(("127.0.0.1", port), ReadyWorker) as thief:
        threading.Thread(target=thief.serve_forever, daemon=True).start()
        supervise(cli, "twin")
        body = failed(cli, "twin", 120)
        thief.shutdown()
    assert body["error"]["code"] == 4
    assert (
        f"worker-0 could not listen on port {port}: taken by process {os.getpid()}"
        in body["error"]["message"]
    )
    down(cli, "twin")


@pytest.mark.fault("a worker dies while it loads", "fails at once (4) with its last lines; takes all down")
def test_a_worker_that_dies_while_it_loads(cli: Cli) -> None:
    dying = "print('Starting to load model', flush=True); import os, time; time.sleep(1); os.abort()"
    stand_in(cli, "loading", dying)
    supervise(cli, "loading")
    body = failed(cli, "loading")
    assert body["error"]["code"] == 4
    assert "(SIGABRT) while loading weights" in body["error"]["message"]
    down(cli, "loading")


@pytest.mark.fault("a worker exits 0 again and again", "restarts it three times, then says failed")
def test_a_worker_that_ends_again_and_again(cli: Cli) -> None:
    """Each time after it has been ready: exit code 0 is a failure too, nobody asked for it."""
    ending = "import os, threading\nthreading.Timer(12, os._exit, (0,)).start()\n"
    stand_in(cli, "again", ending + SERVE)
    supervise(cli, "again")
    body = failed(cli, "again", 200)
    assert "worker-0 ended 4 times within 10 min" in body["error"]["message"]
    assert "exit 0" in body["error"]["message"]
    assert [unit["restarts"] for unit in body["units"]] == [0, 3]
    down(cli, "again")
