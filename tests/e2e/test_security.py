"""What docs/security.md says: listeners, another user of the machine, secrets."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import multiprocessing
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from dynamoctl.host.processes import MARK, environment_of
from dynamoctl.patches.base import installed_version

from .conftest import Cli, chat, free_port, wait_for

pytestmark = [pytest.mark.mocker, pytest.mark.xdist_group("security"), pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"

# Of the caller's environment: every unit has them.
FROM_OUTSIDE = {
    "HF_TOKEN": "hf_not-to-be-shown-1fd0a6",
    "AWS_SECRET_ACCESS_KEY": "aws-not-to-be-shown-8c31e7",
}
# Of [env] in the configuration: the plan has it too.
FROM_CONFIG = {"OPENAI_API_KEY": "sk-not-to-be-shown-52b94d"}
SECRETS = [*FROM_OUTSIDE.values(), *FROM_CONFIG.values()]

# What Dynamo binds to every interface: (unit, topic) of its event plane's ZMQ publishers. Their address
# is fixed (DYN_EVENT_PLANE_HOST is what it advertises); docs/security.md says how to close them.
ON_EVERY_INTERFACE = {
    ("decode-0", "forward-pass-metrics"),
    ("decode-0", "kv_metrics"),
    ("prefill-0", "forward-pass-metrics"),
    ("prefill-0", "kv_metrics"),
    ("prefill-0", "kv-events"),
}
if not installed_version("ai-dynamo").startswith("1.4."):
    ON_EVERY_INTERFACE.add(("decode-0", "active_sequences_events"))

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@dataclass
class Up:
    cli: Cli
    endpoint: str
    config: Path

    @property
    def folder(self) -> Path:
        return self.cli.home / "deployments/default"

    def serves(self) -> bool:
        return self.cli.status()["state"] == "ready" and bool(
            chat(self.endpoint, MODEL, "Hello", max_tokens=4)
        )


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that others may enter, as none of pytest's: what keeps them out is the deployment's own."""
    with tempfile.TemporaryDirectory(prefix="dynamoctl-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def up(open_folder: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    cli.home = open_folder / "home"  # dynamoctl makes it
    cli.environ = FROM_OUTSIDE
    config = tmp_path_factory.mktemp("config") / "dynamoctl.toml"
    config.write_text("[env]\n" + "".join(f'{name} = "{value}"\n' for name, value in FROM_CONFIG.items()))
    port = free_port()
    done = cli(
        "up", "disagg", "--engine", "mocker", "--port", str(port), "--start", "overlapped",
        "--config", str(config),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert shown(done.out + done.err) == []
    yield Up(cli, f"http://127.0.0.1:{port}", config)
    assert cli("down").code == 0
    assert cli.ours() == {}


# ---- listeners ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Socket:
    """A TCP socket that listens, or a UDP socket that anybody may send to."""

    unit: str
    address: str
    port: int

    @property
    def is_on_the_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback


def sockets(cli: Cli) -> list[Socket]:
    found = []
    for pid in cli.ours():
        unit = (environment_of(pid, MARK) or "/supervisor").rpartition("/")[2]
        for one in psutil.Process(pid).net_connections(kind="inet"):
            is_udp = one.type == socket.SOCK_DGRAM and not one.raddr
            if one.laddr and (one.status == psutil.CONN_LISTEN or is_udp):
                found.append(Socket(unit, one.laddr.ip, one.laddr.port))
    return found


def topics(folder: Path) -> dict[int, str]:
    """Port -> topic, of the publishers that are in the deployment's store."""
    bodies = [json.loads(path.read_text()) for path in (folder / "store/v1/event_channels").glob("*")]
    return {int(body["transport"]["config"]["endpoint"].rpartition(":")[2]): body["topic"] for body in bodies}


def test_sockets_are_on_the_loopback_but_for_those_that_are_named(up: Up) -> None:
    topic = wait_for(lambda: (t := topics(up.folder)) and len(t) == len(ON_EVERY_INTERFACE) and t, 30)
    seen = sockets(up.cli)
    # All that the plan knows of are among them: the look is not one past the processes.
    planned = {(unit, port) for unit, body in up.cli.units().items() for port in body["ports"].values()}
    assert planned <= {(one.unit, one.port) for one in seen if one.is_on_the_loopback}
    open_ones = [(one.unit, topic.get(one.port, one)) for one in seen if not one.is_on_the_loopback]
    assert sorted(open_ones) == sorted(ON_EVERY_INTERFACE)


# ---- another user ------------------------------------------------------------------------------


def _as_nobody(what: Callable[[], Any], prepare: Callable[[], object] | None, answer: Any) -> None:
    if prepare is not None:
        prepare()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    try:
        answer.send(what())
    except OSError as error:
        answer.send(error)


def as_nobody(what: Callable[[], Any], prepare: Callable[[], object] | None = None) -> Any:
    """What a function gives back, or the OSError that it raises, where another user calls it.

    In a fork, and not in a new program: the interpreter may lie where other users may not go (below /root).

    Args:
        prepare: called before the fork becomes that user, as for imports.
    """
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_as_nobody, args=(what, prepare, theirs))
    child.start()
    theirs.close()
    try:
        return mine.recv()
    finally:
        child.join()
        child.close()
        mine.close()


@needs_root
def test_another_user_can_go_as_far_as_the_folder(up: Up) -> None:
    """The home is open here, so that what is refused below is refused by the deployment's own folder."""
    assert as_nobody(lambda: os.listdir(up.cli.home / "deployments")) == ["default"]
    assert as_nobody(os.geteuid) == NOBODY


@needs_root
@pytest.mark.parametrize(
    "name",
    ["plan.json", "state.json", "lock", "logs/frontend.log", "logs/decode-0.log", "logs/supervisor.log"],
)
def test_another_user_cannot_read_a_file(up: Up, name: str) -> None:
    path = up.folder / name
    assert path.is_file()
    assert isinstance(as_nobody(path.read_bytes), PermissionError)
    assert isinstance(as_nobody(lambda: path.write_bytes(b"")), PermissionError)


@needs_root
@pytest.mark.parametrize("name", [".", "logs", "store", "run"])
def test_another_user_can_neither_list_a_folder_nor_write_there(up: Up, name: str) -> None:
    """The store is discovery: who could write there could put a worker of his own into the deployment."""
    path = up.folder / name
    assert path.is_dir()
    assert isinstance(as_nobody(lambda: os.listdir(path)), PermissionError)
    assert isinstance(as_nobody((path / "mine").touch), PermissionError)


@needs_root
def test_another_user_cannot_ask_the_supervisor(up: Up) -> None:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(up.folder / "control.sock"))

    connect()  # the owner can
    assert isinstance(as_nobody(connect), PermissionError)


@needs_root
def test_another_user_can_neither_look_into_a_process_nor_signal_it(up: Up) -> None:
    before = up.cli.ours()
    assert len(before) >= 4
    for pid in before:
        for name in ("environ", "mem", "maps"):
            assert isinstance(as_nobody(Path(f"/proc/{pid}/{name}").read_bytes), PermissionError)
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            assert isinstance(as_nobody(partial(os.kill, pid, number)), PermissionError)
    assert up.cli.ours() == before
    assert up.serves()


def dynamoctl_as_nobody(home: Path, *words: str) -> tuple[int, str]:
    """The exit code of a command of another user's with this DYNAMOCTL_HOME, and what it printed."""
    from dynamoctl.cli import run

    def import_all() -> None:
        # Both ways of each command, in a home of its own: commands import when they need something.
        with tempfile.TemporaryDirectory() as empty, contextlib.redirect_stderr(io.StringIO()):
            os.environ["DYNAMOCTL_HOME"] = empty
            with contextlib.redirect_stdout(io.StringIO()):
                for before in (words, ["logs"], ["status", "-n", "default"], ["down", "-n", "default"]):
                    run(list(before))

    def command() -> tuple[int, str]:
        os.environ["DYNAMOCTL_HOME"] = str(home)
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            code = run(list(words))
        return code, out.getvalue()

    answer = as_nobody(command, import_all)
    assert isinstance(answer, tuple), answer
    return answer


@needs_root
@pytest.mark.parametrize("words", [["status"], ["down"], ["logs"], ["cache", "check"]], ids=" ".join)
@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["open home", "closed home"])
def test_commands_of_another_user_are_refused(up: Up, mode: int, words: list[str]) -> None:
    up.cli.home.chmod(mode)
    try:
        code, text = dynamoctl_as_nobody(up.cli.home, *words)
    finally:
        up.cli.home.chmod(0o755)
    assert code in (1, 3), text
    assert "Permission denied" in text
    assert shown(text) == []
    assert up.serves()


@needs_root
@pytest.mark.parametrize("command", ["status", "down"])
def test_another_user_has_nothing_to_see_or_take_down(up: Up, command: str) -> None:
    assert dynamoctl_as_nobody(up.cli.home, command, "--all") == (0, "nothing is running\n")
    assert up.serves()


# ---- secrets -----------------------------------------------------------------------------------


def shown(text: str) -> list[str]:
    """The secrets that stand in a text."""
    return [secret for secret in SECRETS if secret in text]


def test_the_units_have_the_secrets(up: Up) -> None:
    """Or nothing below would be proven."""
    for name, value in (FROM_OUTSIDE | FROM_CONFIG).items():
        units = {environment_of(pid, MARK): environment_of(pid, name) for pid in up.cli.ours()}
        assert len(units) == 4
        assert {held for unit, held in units.items() if unit} == {value}
    # The plan has what it gives to the units, and is the owner's alone.
    assert FROM_CONFIG["OPENAI_API_KEY"] in (up.folder / "plan.json").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["up", "disagg", "--engine", "mocker", "--dry-run", "-n", "other"],
        ["up", "disagg", "--engine", "mocker", "--dry-run", "-n", "other", "--json"],
        ["up", "disagg", "--dry-run", "-n", "other", "--json"],
        ["status"],
        ["status", "--json"],
        ["logs", "--lines", "0"],
        ["logs", "--lines", "0", "--json"],
    ],
    ids=" ".join,
)
def test_no_command_shows_a_secret(up: Up, words: list[str]) -> None:
    config = ["--config", str(up.config)] if words[0] == "up" else []
    done = up.cli(*words, *config)
    assert done.code == 0, done.err
    assert done.out
    assert shown(done.out + done.err) == []


def test_an_error_about_another_plan_shows_no_secret(up: Up, tmp_path: Path) -> None:
    other = tmp_path / "dynamoctl.toml"
    other.write_text('[env]\nOPENAI_API_KEY = "sk-another-not-to-be-shown"\n')
    done = up.cli(
        "up", "disagg", "--engine", "mocker", "--port", up.endpoint.rpartition(":")[2],
        "--start", "overlapped", "--config", str(other),
    )  # fmt: skip
    assert (done.code, "OPENAI_API_KEY" in done.err) == (2, True), done.err
    assert shown(done.err) == []
    assert "another-not-to-be-shown" not in done.err


def test_no_command_line_has_a_secret(up: Up) -> None:
    for pid in up.cli.ours():
        assert shown(" ".join(psutil.Process(pid).cmdline())) == []


def for_others(home: Path) -> list[Path]:
    """The files that others than the owner could read, going down from the home; a group is others too."""
    found = []
    for at, folders, files in os.walk(home):
        folders[:] = [one for one in folders if (Path(at) / one).stat().st_mode & 0o011]
        modes = {path: path.lstat().st_mode for path in (Path(at) / one for one in files)}
        found += [path for path, mode in modes.items() if stat.S_ISREG(mode) and mode & 0o044]
    return found


def test_no_file_of_a_deployment_is_for_others(up: Up) -> None:
    assert for_others(up.cli.home) == []
    assert stat.S_IMODE(up.folder.stat().st_mode) == 0o700
    files = [
        "plan.json",
        "state.json",
        "lock",
        *(f"logs/{one.name}" for one in (up.folder / "logs").iterdir()),
    ]
    assert {stat.S_IMODE((up.folder / one).stat().st_mode) for one in [*files, "control.sock"]} == {0o600}
