"""Units that are frozen, and a store that is lost: they serve again when they go on, or are restarted.

By itself a worker of Dynamo's that was frozen for 16 s lives on and is never listed again.

Nearly all of this is waiting.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from .conftest import Cli, chat, free_port, freeze, post, wait_for

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"


@dataclass
class Up:
    cli: Cli
    name: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def units(self) -> dict[str, dict[str, Any]]:
        return {unit["name"]: unit for unit in self.cli.status(self.name)["units"]}

    def is_ready(self) -> bool:
        return bool(self.cli.status(self.name)["state"] == "ready")

    def answers(self) -> bool:
        try:
            return bool(chat(self.endpoint, MODEL, "Hello", max_tokens=4))
        except OSError:
            return False


def bring_up(cli: Cli, name: str, *more: str) -> Iterator[Up]:
    up = Up(cli, name, free_port())
    words = ("up", "disagg", "--engine", "mocker", "--start", "overlapped", "-n", name)
    done = cli(*words, "--port", str(up.port), *more)
    assert done.code == 0, done.err
    yield up
    assert cli("down", "-n", name).code == 0
    assert cli.ours(name) == {}


@pytest.fixture(scope="module")
def shared(cli: Cli) -> Iterator[Up]:
    """A deployment for the tests after which all is as before."""
    yield from bring_up(cli, "shared")


@pytest.fixture
def own(cli: Cli) -> Iterator[Up]:
    """One for this test."""
    yield from bring_up(cli, "own")


@pytest.mark.xdist_group("frozen")
@pytest.mark.fault(
    "SIGSTOP to any unit for 5 or 16 s", "serves again when it goes on, out of discovery until then"
)
@pytest.mark.parametrize("seconds", [5, 16])
@pytest.mark.parametrize("name", ["frontend", "decode-0", "prefill-0"])
def test_a_frozen_unit_goes_on(shared: Up, name: str, seconds: float) -> None:
    before = shared.units()
    freeze([before[name]["pid"]], seconds)
    wait_for(lambda: shared.is_ready() and shared.answers(), 30)
    after = shared.units()
    assert {name: unit["pid"] for name, unit in after.items()} == {
        name: unit["pid"] for name, unit in before.items()
    }
    assert shared.is_ready()


@pytest.mark.xdist_group("frozen")
@pytest.mark.fault("SIGSTOP to the supervisor for 16 s", "requests go on; ready when it goes on")
def test_a_frozen_supervisor_does_no_harm(shared: Up) -> None:
    supervisor = shared.cli.supervisor(shared.name)
    os.kill(supervisor, signal.SIGSTOP)
    thaw_at = time.monotonic() + 16
    try:
        shown = shared.cli.status(shared.name)  # waits for the supervisor, most of the 16 s
        assert "its supervisor does not answer" in " ".join(shown["warnings"])
        assert shown["cache"] is shown["transfers"] is shown["load"] is shown["remote"] is None
        time.sleep(max(0.0, thaw_at - time.monotonic()))
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 4}
        assert post(f"{shared.endpoint}/v1/completions", body)["choices"]
    finally:
        os.kill(supervisor, signal.SIGCONT)
    wait_for(shared.is_ready, 30)


@pytest.mark.xdist_group("frozen")
@pytest.mark.fault(
    "SIGSTOP to the supervisor and a worker for 16 s",
    "the worker keeps its registration or has it back at once; it serves again when it goes on",
)
def test_a_worker_that_was_frozen_with_its_supervisor_goes_on(shared: Up) -> None:
    """As where a core of the host stands still: nobody keeps the registration."""
    before = shared.units()
    freeze([shared.cli.supervisor(shared.name), before["decode-0"]["pid"]], 16)
    wait_for(shared.answers, 20)
    wait_for(shared.is_ready, 30)
    assert [unit["pid"] for unit in shared.units().values()] == [unit["pid"] for unit in before.values()]


@pytest.mark.fault("SIGSTOP to all units for 30 s", "serve again when they go on; none is restarted")
def test_all_of_them_frozen_for_half_a_minute_go_on(own: Up) -> None:
    before = own.units()
    freeze([unit["pid"] for unit in before.values()], 30)
    wait_for(lambda: own.is_ready() and own.answers(), 30)
    assert [unit["pid"] for unit in own.units().values()] == [unit["pid"] for unit in before.values()]
    assert [unit["restarts"] for unit in own.units().values()] == [0, 0, 0]


@pytest.mark.fault(
    "SIGSTOP to any unit for 90 s or for good",
    "says `not answering`, and restarts it within a minute",
)
def test_units_that_never_go_on_are_restarted(own: Up) -> None:
    before = own.units()
    for unit in before.values():
        os.killpg(unit["pid"], signal.SIGSTOP)
    silent = wait_for(
        lambda: (seen := own.units()) and all(u["state"] == "unresponsive" for u in seen.values()) and seen,
        30,
    )
    assert all(unit["phase"].startswith("not answering for ") for unit in silent.values())
    assert own.cli.status(own.name)["state"] == "degraded"
    wait_for(lambda: own.is_ready() and own.answers(), 120)
    assert [unit["restarts"] for unit in own.units().values()] == [1, 1, 1]
    assert not {unit["pid"] for unit in own.units().values()} & {unit["pid"] for unit in before.values()}


@pytest.mark.fault("the store folder is deleted", "puts the registrations back and restarts the frontend")
def test_a_store_that_was_deleted_comes_back(own: Up) -> None:
    """The frontend cannot see into a new folder of that name; it is started again, the workers are not."""
    before = own.units()
    shutil.rmtree(own.cli.home / "deployments" / own.name / "store")
    wait_for(lambda: not own.answers(), 60)
    wait_for(own.answers, 120)
    wait_for(own.is_ready, 30)
    after = own.units()
    for name in ("decode-0", "prefill-0"):
        assert after[name]["pid"] == before[name]["pid"]


@pytest.mark.fault(
    "a worker's registration is lost before anybody saw it", "starts the worker again, 20 to 30 s later"
)
def test_a_registration_that_nobody_saw(own: Up) -> None:
    """The supervisor is frozen while a worker registers: it cannot put back what it never saw."""
    store = own.cli.home / "deployments" / own.name / "store"
    others = set(store.glob("v1/*/*"))
    supervisor = own.cli.supervisor(own.name)
    before = own.units()["prefill-0"]
    os.killpg(before["pid"], signal.SIGKILL)
    unseen = wait_for(lambda: (u := own.units()["prefill-0"])["pid"] not in (None, before["pid"]) and u, 60)
    os.kill(supervisor, signal.SIGSTOP)
    try:
        wait_for(lambda: set(store.glob("v1/instances/*")) - others, 60)
        time.sleep(2)  # its model's card and the like come a little later
        for path in set(store.glob("v1/*/*")) - others:
            path.unlink()
    finally:
        os.kill(supervisor, signal.SIGCONT)
    wait_for(lambda: own.is_ready() and own.units()["prefill-0"]["pid"] != unseen["pid"], 120)
    assert own.answers()


@pytest.fixture
def impatient(cli: Cli) -> Iterator[Up]:
    """Its workers take their time: long enough to be seen while they start."""
    yield from bring_up(cli, "impatient", "--hang-timeout", "60", "--", "--startup-time", "3")


@pytest.mark.fault("SIGSTOP for good to a unit that is being restarted", "tries the restart again")
def test_a_restart_that_hangs_is_tried_again(impatient: Up) -> None:
    first = impatient.units()["prefill-0"]["pid"]

    def another(*before: int) -> int | None:
        pid = impatient.units()["prefill-0"]["pid"]
        return pid if pid not in (None, *before) else None

    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: another(first), 30)
    os.killpg(second, signal.SIGSTOP)
    assert impatient.units()["prefill-0"]["state"] == "starting"
    wait_for(lambda: another(first, second), 120)
    wait_for(lambda: impatient.is_ready() and impatient.answers(), 60)
    assert impatient.units()["prefill-0"]["restarts"] == 2
