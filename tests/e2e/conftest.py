"""Real processes: each test module has a dynamoctl home of its own and must leave nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
from dynamoctl.host import models
from dynamoctl.host.processes import MARK, all_pids, environment_of, files_of
from dynamoctl.operations import conversion
from dynamoctl.operations.status import status

from tests.e2e import matrix, small_model

# Starts are slow and noisy on two cores; nothing here is about speed.
PATIENCE_S = 240


@dataclass
class Result:
    """How one command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        body = json.loads(self.out)
        assert isinstance(body, dict)
        return body


@dataclass
class Cli:
    """Runs dynamoctl as a user would, in a home of its own.

    Attributes:
        prefix: the beginning of each command line, as in `ip netns exec NAME`.
    """

    home: Path
    environ: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def env(self, **more: str) -> dict[str, str]:
        base = {k: v for k, v in os.environ.items() if not k.startswith(("DYN_", "LMCACHE_"))}
        return {**base, "DYNAMOCTL_HOME": str(self.home), **self.environ, **more}

    def __call__(
        self, *words: str, cwd: Path | None = None, patience_s: float = PATIENCE_S, **env: str
    ) -> Result:
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "dynamoctl", *words],
            env=self.env(**env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=False,
        )
        assert "Traceback" not in done.stderr + done.stdout, done.stderr + done.stdout
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "dynamoctl", *words],
            env=self.env(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Meanwhile dynamoctl's own functions in this process work on this home."""
        with mock.patch.dict(os.environ, DYNAMOCTL_HOME=str(self.home)):
            yield

    def status(self, name: str = "default") -> dict[str, Any]:
        """What `status --json` says, without a process for each look: tests look again and again."""
        with self.here():
            return cast("dict[str, Any]", json.loads(json.dumps(asdict(status(name)))))  # lists, as printed

    def units(self, name: str = "default") -> dict[str, dict[str, Any]]:
        """The units of a deployment's plan, by name."""
        plan = json.loads((self.home / "deployments" / name / "plan.json").read_text())["plan"]
        return {unit["name"]: unit for unit in plan["units"]}

    def ours(self, name: str | None = None) -> dict[int, str]:
        """Every living process that deployments of this home have started, supervisors too; or one has."""
        found = {}
        for pid in all_pids():
            if pid == os.getpid() or environment_of(pid, "DYNAMOCTL_HOME") != str(self.home):
                continue
            line = full_command_line(pid)
            if "dynamoctl.supervisor" in line:
                folder = line.split()[-1]
            elif environment_of(pid, MARK):
                folder = working_folder(pid)
            else:
                continue
            if name is None or f"{folder}/".startswith(f"{self.home}/deployments/{name}/"):
                found[pid] = line
        return found

    def told(self, lines: int = 25) -> dict[str, str]:
        """The units' states and the ends of all logs, of each deployment: to be read after a failure."""
        found = {}
        for folder in sorted((self.home / "deployments").glob("*/")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                state = json.loads((folder / "state.json").read_text())
                found[f"units of {folder.name}"] = "\n".join(map(json.dumps, state["units"]))
            for log in sorted((folder / "logs").glob("*.log")):
                with contextlib.suppress(OSError):
                    text = log.read_text(errors="replace").splitlines()
                    found[f"{folder.name}/{log.name}"] = "\n".join(line[:300] for line in text[-lines:])
        return found

    def supervisor(self, name: str = "default") -> int:
        """The process of a deployment's supervisor."""
        return next(pid for pid, line in self.ours(name).items() if "dynamoctl.supervisor" in line)


def first_on_path(folder: Path) -> str:
    """A PYTHONPATH on which this folder comes before what is there already."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def full_command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def working_folder(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


# Below those that plans take and those that the kernel hands out. Random: runs of tests may share a host.
_PORTS = itertools.count(random.randrange(10000, 18000))


def free_port() -> int:
    """Each call gives another.

    It is not bound to try it: a process that another thread starts at that moment has a copy of the socket,
    and with it the port, until its exec.
    """
    return next(port for port in _PORTS if not is_open(port))


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: Callable[[], Any], patience_s: float = 120.0) -> Any:
    """The first true value of `what`; it fails with the last one."""
    began = time.monotonic()
    while True:
        value = what()
        if value:
            return value
        waited = time.monotonic() - began
        assert waited < patience_s, f"still {value!r} after {patience_s} s"
        # Each look at a status makes the supervisor ask every unit: the longer it takes, the fewer.
        time.sleep(min(1.0, 0.1 + waited / 10))


def freeze(pids: Collection[int], seconds: float) -> None:
    """Units or supervisors, each a process group of its own, stand still for so long, and go on."""
    try:
        for pid in pids:
            os.killpg(pid, signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        for pid in pids:
            os.killpg(pid, signal.SIGCONT)


def post(url: str, body: dict[str, Any], patience_s: float = 120) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=patience_s) as answer:
        reply = json.load(answer)
        assert isinstance(reply, dict)
        return reply


def chat(endpoint: str, model: str, question: str, max_tokens: int = 32) -> str:
    reply = post(
        f"{endpoint}/v1/chat/completions",
        {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": max_tokens,
            "temperature": 0,
        },
    )
    return str(reply["choices"][0]["message"]["content"])


def counter(port: int, name: str) -> float:
    """The sum of a Prometheus counter over its labels, as a process on this port says it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def outside() -> set[str]:
    """What units leave outside a deployment's folder: shared memory, sockets, temporary files, metrics."""
    temporary = Path(tempfile.gettempdir())
    found = {str(path) for path in temporary.iterdir() if path.is_socket()}
    found |= {str(path) for path in temporary.glob("tmp*") if path.is_file()}
    found |= {str(path) for path in temporary.glob("vllm_prometheus_*")}
    return found | {f"/dev/shm/{name}" for name in shared_memory()}


def left_outside(one: Cli, before: set[str]) -> set[str]:
    """What has come since, without what living processes of others have: other engines may run here too."""
    found = outside() - before
    return found - files_of(set(all_pids()) - one.ours().keys()).keys() if found else found


def left_over(one: Cli, before: set[str]) -> dict[str, int]:
    """What is left after a deployment but its logs and its state, and its bytes; a socket counts as one."""
    found = {Path(path) for path in left_outside(one, before)}
    for folder in (one.home / "deployments").glob("*/*"):
        if folder.name in ("store", "run"):
            found |= {path for path in folder.rglob("*") if path.is_file()}
        elif folder.is_socket():
            found.add(folder)
    return {str(path): max(1, path.lstat().st_size) for path in sorted(found)}


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cli]:
    """A dynamoctl with a home of its own; afterwards nothing of it may be left."""
    with cleanly(Cli(tmp_path_factory.mktemp("home")), request.node.nodeid) as one:
        yield one


@pytest.fixture(scope="session")
def model() -> Path:
    """The folder of the built-in model. `up` converts it; what it exports does not."""
    folder = models.builtin_folder()
    if not folder.exists():
        conversion.convert_builtin(models.builtin_gguf(), folder, lambda step, fraction: None)
    return folder


@pytest.fixture(scope="session")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> small_model.SmallModel:
    """A model for tests that need no real text."""
    return small_model.write(tmp_path_factory.mktemp("models") / small_model.NAME, model)


@pytest.fixture
def copied_model(model: Path, tmp_path: Path) -> Path:
    """A folder of the built-in model, named `copied`, to be changed: all that a mocker needs."""
    own = tmp_path / "copied"
    own.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, own)
    return own


@contextlib.contextmanager
def cleanly(one: Cli, nodeid: str) -> Iterator[Cli]:
    """Take down what a test has brought up, and fail where anything is left."""
    before = outside()
    yield one
    # Each test, or the module's deployment, has been taken down by now. Where one has not, the next module
    # must not suffer from it.
    living, files = one.ours(), left_over(one, before)
    print(f"left: {living} {files}" if living or files else "")
    down = one("down", "--all")
    left = one.ours()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    matrix.settle(nodeid, len(living), sum(files.values()))
    assert down.code == 0, down.err
    assert left == {}
    assert left_outside(one, before) == set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call":
        for mark in item.iter_markers("fault"):
            matrix.saw(item.nodeid.partition("::")[0], *mark.args, passed=report.passed)
    if report.when == "call" and report.failed:
        for one in getattr(item, "funcargs", {}).values():
            found = one if isinstance(one, Cli) else getattr(one, "cli", None)
            if isinstance(found, Cli):
                report.sections += found.told().items()
                break
    return report
