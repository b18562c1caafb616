"""`dynamoctl restart`: which units, what clients notice, and what the supervisor refuses."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.errors import DynamoctlError, NotReadyError, SpecError
from dynamoctl.host.processes import identify
from dynamoctl.operations import restart
from dynamoctl.planner.plan import Role
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState, UnitStateName
from dynamoctl.supervisor import changing

UNITS: tuple[tuple[str, Role], ...] = (
    ("frontend", "frontend"), ("lmcache", "cache"), ("decode-0", "decode"), ("prefill-0", "prefill"),
    ("prefill-1", "prefill"),
)  # fmt: skip


def state(**states: UnitStateName) -> DeploymentState:
    """A deployment that serves; the units named are in another state."""
    units = [UnitState(name, role, state=states.get(name.replace("-", "_"), "ready")) for name, role in UNITS]
    return DeploymentState(
        "default", "disagg", "m", "http://127.0.0.1:1", "start", state="ready", units=units,
        supervisor=identify(os.getpid()),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def served(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    folder = DeploymentDir("default")
    folder.path.mkdir(parents=True)
    folder.write_state(state())


@pytest.mark.parametrize(
    ("units", "role", "everything", "expected"),
    [
        (["frontend", "decode-0"], None, False, ["decode-0", "frontend"]),
        ([], "prefill", False, ["prefill-0", "prefill-1"]),
        ([], None, True, ["prefill-0", "prefill-1", "decode-0", "lmcache", "frontend"]),
    ],
)
def test_workers_come_before_what_they_need(
    units: list[str], role: str | None, everything: bool, expected: list[str]
) -> None:
    assert [one.name for one in restart.chosen("default", units, role, everything)] == expected


@pytest.mark.parametrize(
    ("name", "units", "role", "everything", "said"),
    [
        ("default", [], None, False, "name the units to restart"),
        ("default", ["decode-0"], None, True, "name the units to restart"),
        ("default", ["decode-0"], "prefill", False, "name the units to restart"),
        ("default", ["decode-7"], None, False, "'default' has no unit 'decode-7'"),
        ("default", [], "agg", False, "'default' has no unit of the role 'agg'"),
        ("another", [], None, True, "'another' is not running"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    name: str, units: list[str], role: str | None, everything: bool, said: str
) -> None:
    with pytest.raises(SpecError) as refused:
        restart.chosen(name, units, role, everything)
    assert refused.value.message.startswith(said)
    assert refused.value.hint


def test_what_clients_notice() -> None:
    there = state()
    by_name = {unit.name: unit for unit in there.units}
    assert restart.consequences(there, [by_name["prefill-0"], by_name["lmcache"]]) == []
    (said,) = restart.consequences(there, [by_name["decode-0"]])
    assert said.startswith("decode-0: requests fail until it is back")
    (said,) = restart.consequences(there, [by_name["frontend"]])
    assert said.startswith("frontend: answers break off")
    alone = state(prefill_1="backoff")
    (said,) = restart.consequences(alone, [by_name["prefill-0"]])
    assert said.startswith("prefill-0: requests fail")


def test_a_supervisor_that_does_not_answer() -> None:
    with pytest.raises(NotReadyError, match="does not answer"):
        restart.restart("default", "decode-0")


def test_what_the_supervisor_refuses_is_said_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    error = NotReadyError("decode-0 is starting", "wait").as_json()
    monkeypatch.setattr(restart, "ask", lambda *_, **__: {"error": error})
    with pytest.raises(DynamoctlError, match="decode-0 is starting") as refused:
        restart.restart("default", "decode-0")
    assert (refused.value.exit_code, refused.value.hint) == (4, "wait")


class Deployment:
    """One worker; `told` is what was done with it."""

    def __init__(self, unit: UnitStateName = "ready", whole: str = "ready") -> None:
        self.folder = SimpleNamespace(name="default", log=lambda name: f"logs/{name}.log")
        self.plan = SimpleNamespace(drain_s=5.0, engine="mocker", timeout_s=0.2)
        self.state = SimpleNamespace(state=whole)
        self.members = [
            SimpleNamespace(
                unit=SimpleNamespace(name="worker-0", is_worker=True),
                state=SimpleNamespace(state=unit, phase="", identity=1),
                ready=asyncio.Event(),
            )
        ]
        self.changing = asyncio.Lock()
        self.listed = True
        self.comes_back = self.has_descriptors = True
        self.told: list[str] = []

    def save(self) -> None:
        self.told.append(self.members[0].state.phase)

    async def renew(self, member: Any, _patience_s: float) -> None:
        if not self.has_descriptors:
            raise OSError("too many open files")
        self.told.append("renewed")
        if self.comes_back:
            member.state.identity = 2
            member.ready.set()

    async def put_back_into_service(self, _member: Any) -> None:
        self.told.append("put back")


def refused(deployment: Any, unit: str = "worker-0") -> str:
    with pytest.raises(DynamoctlError) as error:
        asyncio.run(changing.restart(deployment, unit))
    return error.value.message


def test_a_worker_is_drained_and_then_started_again() -> None:
    deployment: Any = Deployment()
    assert asyncio.run(changing.restart(deployment, "worker-0")) >= 0
    assert deployment.told == ["draining", "renewed"]


def test_what_is_not_up_is_left_alone() -> None:
    for deployment in (Deployment("starting"), Deployment(whole="starting"), Deployment(whole="failed")):
        assert refused(deployment).endswith(("is starting", "is failed"))
        assert deployment.told == []
    assert refused(Deployment(), "worker-1") == "'default' has no unit 'worker-1'"


def test_a_worker_that_does_not_come_back() -> None:
    deployment = Deployment()
    deployment.comes_back = False
    assert refused(deployment).startswith("worker-0 is not back after")


def test_a_process_that_still_lives_is_not_the_one_that_is_waited_for() -> None:
    deployment: Any = Deployment()
    deployment.comes_back = False
    deployment.members[0].ready.set()
    assert refused(deployment).startswith("worker-0 is not back after")


def test_a_worker_that_cannot_be_restarted_gets_requests_again() -> None:
    deployment = Deployment()
    deployment.has_descriptors = False
    assert refused(deployment) == "worker-0 cannot be restarted: too many open files"
    assert deployment.told == ["draining", "put back"]
    assert deployment.members[0].state.phase == ""


def test_one_at_a_time() -> None:
    deployment: Any = Deployment()

    async def again() -> None:
        async with deployment.changing:
            await changing.restart(deployment, "worker-0")

    with pytest.raises(NotReadyError, match="another unit is being restarted"):
        asyncio.run(again())
    assert deployment.told == []
