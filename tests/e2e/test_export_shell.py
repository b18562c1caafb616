"""The exported script, run as a user would: it serves, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dynamoctl.host.processes import all_pids, environment_of

from .conftest import Cli, chat, free_port, outside

pytestmark = [
    pytest.mark.mocker,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("model"),
]

MODEL = "smollm2-135m-instruct"


def exported(cli: Cli, folder: Path, *words: str) -> tuple[Path, int]:
    """The script in a file of its own, and the port at which it serves."""
    port, file = free_port(), folder / "run.sh"
    made = cli("export", "shell", *words, "--port", str(port), "-o", str(file))
    assert made.code == 0, made.err
    return file, port


@contextmanager
def running(file: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    script = subprocess.Popen(
        [file], cwd=file.parent, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield script
    finally:
        if script.poll() is None:
            script.send_signal(signal.SIGTERM)
        script.wait(timeout=120)
        assert script.stderr is not None
        script.stderr.close()


def until(script: subprocess.Popen[str], words: str) -> list[str]:
    """The lines up to the first with these words in it."""
    assert script.stderr is not None
    lines = []
    for line in script.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"no {words!r} in {''.join(lines)}")


def units_of(folder: Path) -> dict[int, str]:
    """The processes whose store lies in that folder."""
    found = {pid: environment_of(pid, "DYN_FILE_KV") or "" for pid in all_pids()}
    return {pid: store for pid, store in found.items() if store == f"{folder}/store"}


def folder_of(port: int) -> Path:
    """The script's own folder, out of the environment of the frontend at that port."""
    for pid in list(all_pids()):
        line = Path(f"/proc/{pid}/cmdline")
        words = line.read_bytes().split(b"\0") if line.exists() else []
        if b"dynamo.frontend" in words and str(port).encode() in words:
            store = environment_of(pid, "DYN_FILE_KV")
            assert store is not None
            return Path(store).parent
    raise AssertionError(f"no frontend with port {port}")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_and_leaves_nothing(cli: Cli, tmp_path: Path, ending: signal.Signals) -> None:
    before = outside()
    file, port = exported(cli, tmp_path, "disagg", "--engine", "mocker", "--decode", "2")
    with running(file) as script:
        lines = until(script, "serves")
        order = [line.split(": ", 1)[1].split()[0] for line in lines if line.endswith("starts\n")]
        assert order == ["frontend", "decode-0", "decode-1", "prefill-0"]
        assert chat(f"http://127.0.0.1:{port}", MODEL, "Hello", max_tokens=4)
        folder = folder_of(port)
        assert len(units_of(folder)) >= 4
        script.send_signal(ending)
        assert script.wait(timeout=120) == 128 + ending
        assert script.stderr is not None
        stops = [line.split()[1] for line in script.stderr if line.endswith("stops\n")]
    assert stops == ["prefill-0", "decode-0", "decode-1", "frontend"]
    assert units_of(folder) == {}
    assert not folder.exists()
    assert outside() - before == set()
    logs = sorted(path.name for path in (tmp_path / "default-logs").iterdir())
    assert logs == ["decode-0.log", "decode-1.log", "frontend.log", "prefill-0.log"]


def test_a_process_that_ends_takes_all_down(cli: Cli, tmp_path: Path) -> None:
    file, port = exported(cli, tmp_path, "agg", "--engine", "mocker", "--workers", "2", "-n", "two")
    with running(file, LOGS="mine") as script:
        until(script, "serves")
        folder = folder_of(port)
        worker = next(
            pid for pid in units_of(folder) if b"dynamo.mocker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(worker, signal.SIGKILL)
        assert "has ended; its log is" in until(script, "has ended")[-1]
        assert script.wait(timeout=120) == 1
    assert units_of(folder) == {}
    assert not folder.exists()
    assert (tmp_path / "mine" / "worker-0.log").stat().st_size > 0


def test_a_taken_port_is_told_before_anything_starts(cli: Cli, tmp_path: Path) -> None:
    import socket

    file, port = exported(cli, tmp_path, "agg", "--engine", "mocker")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        began = time.monotonic()
        with running(file) as script:
            assert f"port {port} is taken" in until(script, "error")[-1]
            assert script.wait(timeout=30) == 1
        assert time.monotonic() - began < 10
    assert not (tmp_path / "default-logs").exists()
