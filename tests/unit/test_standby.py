"""Processes that wait to become a worker: real ones, with a stand-in for Dynamo's worker."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.host.processes import MARK, environment_of, is_running
from dynamoctl.processes import process_control, worker
from dynamoctl.state import UnitState
from dynamoctl.supervisor import lifecycle, standby, temporary
from dynamoctl.supervisor.running_unit import RunningUnit

from tests.unit import stand_in_packages
from tests.unit.hosts import plan

DYNAMO = "import os, time; print('it works in', os.getcwd(), flush=True); time.sleep(600)\n"


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        process_control.reap()
        time.sleep(0.02)
    return holds()


class Place:
    """A deployment of one worker, as far as standbys see it."""

    def __init__(self, root: Path, member: RunningUnit) -> None:
        self.root, self.members = root, [member]
        self.plan = SimpleNamespace(standby=True, discovery="file")
        self.folder = SimpleNamespace(
            work=lambda name: root / "run" / name, log=lambda name: root / f"{name}.log"
        )
        self.saved = 0

    def sockets(self) -> dict[str, str]:
        return {}

    def save(self) -> None:
        self.saved += 1


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Any]:
    unit = plan().workers[0]
    assert unit.argv[1:3] == ("-m", "dynamo.vllm")
    path = stand_in_packages.make(tmp_path, DYNAMO)
    unit = replace(
        unit, argv=(sys.executable, *unit.argv[1:]), env={"PYTHONPATH": path, "DYNAMOCTL_FORK_ENGINE": ""}
    )
    made = Place(tmp_path, RunningUnit(unit, UnitState(unit.name, unit.role), f"{os.getpid()}/worker-0"))
    yield made
    standby.end(made.members[0])
    if identity := made.members[0].state.identity:
        os.kill(identity.pid, 9)
        assert until(lambda: not is_running(identity))


def waiting(place: Any) -> standby.Standby:
    """A standby that has imported everything."""
    member = place.members[0]
    standby.prepare(place, member)
    assert member.standby is not None
    assert until(lambda: member.standby.has_imported)
    return member.standby  # type: ignore[no-any-return]


def take(place: Any, **environ: str) -> Any:
    member = place.members[0]
    own = standby.environ_of(place, member) | environ
    member.state.identity = standby.take(place, member, own)
    return member.state.identity


def test_it_becomes_the_worker_in_the_units_folder_with_the_units_log(place: Any, tmp_path: Path) -> None:
    waited = waiting(place)
    member = place.members[0]
    assert member.mark == f"{os.getpid()}/worker-0"
    # What belongs to the unit is killed before a restart: the standby does not.
    assert environment_of(waited.identity.pid, MARK) == f"{os.getpid()}/worker-0~1" == waited.mark
    assert take(place) == waited.identity
    assert member.mark == waited.mark
    assert member.standby is None
    log = tmp_path / "worker-0.log"
    assert until(lambda: log.exists() and "it works in" in log.read_text())
    assert f"it works in {tmp_path / 'run' / 'worker-0'}" in log.read_text()
    assert member.next_mark() == f"{os.getpid()}/worker-0~2"


def test_one_with_another_environment_is_not_taken_and_ends(place: Any) -> None:
    waited = waiting(place)
    assert take(place, LATER="1") is None
    assert until(lambda: not is_running(waited.identity))
    assert place.members[0].mark == f"{os.getpid()}/worker-0"


def test_one_that_has_ended_is_not_taken(place: Any) -> None:
    waited = waiting(place)
    os.kill(waited.identity.pid, 9)
    assert until(lambda: not is_running(waited.identity))
    assert take(place) is None


def test_one_may_be_told_before_it_has_imported_everything(place: Any, tmp_path: Path) -> None:
    standby.prepare(place, place.members[0])
    assert take(place) is not None
    log = tmp_path / "worker-0.log"
    assert until(lambda: log.exists() and "it works in" in log.read_text())


def test_it_ends_with_the_supervisor(place: Any) -> None:
    waited = waiting(place)
    os.close(waited._order)
    assert until(lambda: not is_running(waited.identity))


def test_a_new_one_takes_the_place_of_another(place: Any) -> None:
    first = waiting(place)
    second = waiting(place)
    assert second.mark != first.mark
    assert until(lambda: not is_running(first.identity))
    assert is_running(second.identity)


def test_only_vllm_workers_have_one() -> None:
    made = plan(mode="disagg")
    assert {unit.name for unit in made.units if standby.is_possible(unit)} == {"decode-0", "prefill-0"}
    assert not any(standby.is_possible(unit) for unit in plan(engine="mocker").units)


def test_the_command_line_is_the_plans_but_for_the_module() -> None:
    unit = plan().workers[0]
    made = standby.command_line(unit.argv)
    assert (made[0], made[3:]) == (unit.argv[0], unit.argv[3:])
    assert made[1:3] == ("-m", "dynamoctl.processes.worker")


def test_status_tells_of_it(place: Any) -> None:
    member = place.members[0]
    standby._note(member)
    assert member.state.standby == ""
    waited = waiting(place)
    standby._note(member)
    assert member.state.standby == "ready"
    os.kill(waited.identity.pid, 9)
    assert until(lambda: not is_running(waited.identity))
    standby._note(member)
    assert member.state.standby == ""


@pytest.mark.parametrize(("wanted", "state"), [(True, "ready"), (False, ""), (None, "")])
def test_a_worker_that_is_up_has_one_if_the_plan_says_so(place: Any, wanted: bool | None, state: str) -> None:
    """None: it says so, and the worker is not up."""
    member = place.members[0]
    place.plan.standby = wanted is not False
    member.state.state = "backoff" if wanted is None else "ready"

    async def for_a_while() -> None:
        watch = asyncio.ensure_future(standby.keep_ready(place))
        deadline = time.monotonic() + (60 if wanted else 3)
        while time.monotonic() < deadline and member.state.standby != "ready":
            await asyncio.sleep(0.1)
        watch.cancel()

    asyncio.run(for_a_while())
    assert member.state.standby == state
    assert bool(place.saved) is bool(wanted)


@pytest.mark.parametrize(("phase", "has_one"), [("importing", False), ("starting the engine", True)])
def test_a_worker_that_imports_has_no_next_one_yet(
    place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, phase: str, has_one: bool
) -> None:
    """It may be the standby of before, and its folder is the one that the next gets."""
    monkeypatch.setattr(lifecycle, "KEEP_INTERVAL_S", 0.01)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    member = place.members[0]
    standby.prepare(place, member)
    taken = take(place)
    member.state.state, member.state.phase = "starting", phase

    async def for_a_while() -> None:
        watch = asyncio.ensure_future(standby.keep_ready(place))
        await asyncio.sleep(0.5)
        watch.cancel()

    log = tmp_path / "worker-0.log"
    if has_one:  # by then it has its own folder
        assert until(lambda: log.exists() and "it works in" in log.read_text())
    asyncio.run(for_a_while())
    assert (member.standby is not None) == has_one
    assert until(lambda: log.exists() and "it works in" in log.read_text())
    assert is_running(taken)


def test_what_cannot_be_imported_is_left_to_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_fails.py").write_text("raise RuntimeError('no such device')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "_MAIN", ("module_that_fails", "module_that_is_not_there"))
    monkeypatch.setattr(worker, "_OF_DEVICE", {})
    worker.preload([])


def test_what_is_compiled_is_kept_also_for_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    assert temporary.compiled().endswith("/torchinductor_somebody")

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert temporary.compiled().endswith(f"/torchinductor_{os.geteuid()}")
