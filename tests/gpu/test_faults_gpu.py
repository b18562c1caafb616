"""Whatever dies, and whenever: the GPU holds nothing of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial

import psutil
import pytest
from dynamoctl.host import gpus
from dynamoctl.host.processes import identify, is_running

from tests.e2e.conftest import Cli, chat, free_port, wait_for
from tests.gpu.conftest import engine_of, on_gpus, visible

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu"), pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
# The driver's own bookkeeping moves by some MiB.
SLACK_MIB = 64


def words(port: int) -> tuple[str, ...]:
    return (
        "up", "agg", "--gpus", "0", "--model", MODEL, "--lmcache-cpu-gb", "1", "--port", str(port),
        "--", "--enforce-eager", "--gpu-memory-utilization", "0.3", "--max-model-len", "2048",
    )  # fmt: skip


def used() -> int:
    return gpus.memory_used()[visible()[0]]


@pytest.fixture(scope="module")
def before() -> int:
    """MiB of the GPU in use by others."""
    return used()


@pytest.fixture
def nothing_is_left(cli: Cli, before: int) -> Iterator[None]:
    yield
    left = cli.ours()
    cli("down", "--all")  # the next test must not suffer from this one's failure
    assert left == {}
    wait_for(lambda: used() <= before + SLACK_MIB, 30)
    print(f"{used()} MiB in use afterwards, {before} MiB before")


def is_back(cli: Cli, restarts: int) -> bool:
    body = cli.status()
    worker = body["units"][-1]
    assert worker["restarts"] <= restarts, worker
    return bool(body["state"] == "ready" and worker["restarts"] == restarts)


def test_a_killed_engine_and_a_killed_worker_give_their_memory_to_the_next(
    cli: Cli, before: int, nothing_is_left: None
) -> None:
    port = free_port()
    up = cli(*words(port), patience_s=800)
    assert up.code == 0, up.err
    endpoint = f"http://127.0.0.1:{port}"
    assert "Paris" in chat(endpoint, MODEL, "What is the capital of France?")  # which takes some memory, too
    serving = used()
    assert serving > before + 1000
    for restarts, pick in ((1, engine_of), (2, lambda pid: pid)):
        worker = cli.status()["units"][-1]["pid"]
        children = (one.pid for one in psutil.Process(worker).children(recursive=True))
        family = [one for pid in (worker, *children) if (one := identify(pid)) is not None]
        print(f"NVML names {gpus.memory_by_process()}; ours are {family}")
        os.kill(pick(worker), signal.SIGKILL)
        wait_for(partial(is_back, cli, restarts), 300)
        assert "Paris" in chat(endpoint, MODEL, "What is the capital of France?")
        assert not [one for one in family if is_running(one)]
        print(f"restart {restarts}: {used()} MiB in use, {serving} MiB the first time")
        assert used() <= serving + SLACK_MIB
    down = cli("down")
    assert down.code == 0, down.err


def test_a_killed_supervisors_worker_is_taken_down_by_down(
    cli: Cli, before: int, nothing_is_left: None
) -> None:
    up = cli(*words(free_port()), patience_s=800)
    assert up.code == 0, up.err
    os.kill(cli.supervisor(), signal.SIGKILL)
    wait_for(lambda: cli.status()["state"] == "unsupervised", 30)  # it takes a moment to die
    assert used() > before + 1000
    down = cli("down")
    assert down.code == 0, down.err


@pytest.fixture
def loading(cli: Cli, before: int) -> subprocess.Popen[str]:
    """An `up` whose worker has taken memory of the GPU, and has not loaded yet."""
    assert cli.ours() == {}
    assert used() <= before + SLACK_MIB
    starting = cli.start(*words(free_port()))
    wait_for(lambda: "worker-0" in on_gpus(cli), 300)  # LMCache's server is there before
    print(f"{used()} MiB in use, {cli.status()['units'][-1]['phase']}")
    return starting


def test_a_worker_that_is_killed_while_it_loads(
    cli: Cli, nothing_is_left: None, loading: subprocess.Popen[str]
) -> None:
    os.kill(cli.status()["units"][-1]["pid"], signal.SIGKILL)
    _, err = loading.communicate(timeout=120)
    assert loading.returncode == 4
    assert "worker-0 ended" in err


def test_a_supervisor_that_is_killed_while_its_worker_loads(
    cli: Cli, nothing_is_left: None, loading: subprocess.Popen[str]
) -> None:
    os.kill(cli.supervisor(), signal.SIGKILL)
    loading.communicate(timeout=120)
    assert loading.returncode == 4
    assert cli.ours()
    down = cli("down")
    assert down.code == 0, down.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_up_that_is_broken_off_while_its_worker_loads(
    cli: Cli, nothing_is_left: None, loading: subprocess.Popen[str], how: signal.Signals
) -> None:
    """SIGKILL takes the command alone: the start goes on without it, and `down` ends it."""
    loading.send_signal(how)
    loading.communicate(timeout=120)
    if how == signal.SIGKILL:
        assert cli.ours()
        down = cli("down")
        assert down.code == 0, down.err
    else:
        assert loading.returncode == 130
