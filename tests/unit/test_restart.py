"""`dynamoctl restart`: which units, in which way, what clients notice, and what the supervisor says."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from dynamoctl.checks import registry
from dynamoctl.checks.base import Finding, Level
from dynamoctl.errors import DynamoctlError, NotReadyError, SpecError
from dynamoctl.host.processes import identify
from dynamoctl.operations import changes, planning, restart
from dynamoctl.operations.changes import Proposal
from dynamoctl.operations.line import Line
from dynamoctl.planner import make_plan
from dynamoctl.planner.plan import Role
from dynamoctl.planner.rescaling import Running
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState, UnitStateName

from . import hosts

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
    assert changes.consequences(there, ["prefill-0", "lmcache"]) == []
    (said,) = changes.consequences(there, ["decode-0"])
    assert said.startswith("decode-0: requests fail until it is back")
    (said,) = changes.consequences(there, ["frontend"])
    assert said.startswith("frontend: answers break off")
    alone = state(prefill_1="backoff")
    (said,) = changes.consequences(alone, ["prefill-0"])
    assert said.startswith("prefill-0: requests fail")
    drained = state()
    drained.units[-1].service = "drained"
    (said,) = changes.consequences(drained, ["prefill-0"])
    assert said.startswith("prefill-0: requests fail")


# ---- new before old, or in place -----------------------------------------------------------------


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Proposal]:
    """Plan a restart on a host with so much memory, where each worker has 4 GiB."""

    def plan(*units: str, mode: str = "disagg", available: float = 100.0, in_place: bool = False) -> Proposal:
        fields = {"mode": mode, "engine": "mocker", "device": "cpu", "model": "/m"}
        asked = hosts.spec(**fields, **({"prefill": 2} if mode == "disagg" else {}))
        facts = replace(hosts.host(), memory_available_gib=available)
        now = Running(asked, make_plan(asked, facts, hosts.FOLDER_MODEL))
        monkeypatch.setattr(changes, "running", lambda _: (state(), now))
        monkeypatch.setattr(planning, "look", lambda _: facts)
        monkeypatch.setattr(planning, "locate", lambda *_: hosts.FOLDER_MODEL)
        monkeypatch.setattr(registry, "check_beside", lambda *_: [])
        memory = {unit.name: 4096 for unit in now.plan.workers}
        monkeypatch.setattr(changes, "ask", lambda _: {"memory": {"units": memory}})
        there = [one for one in state().units if one.name in units]
        return restart.plan("default", there, in_place)

    return plan


def actions(proposal: Proposal) -> list[tuple[str, str]]:
    return [(step.action, step.name) for step in proposal.steps]


def test_a_new_worker_serves_before_the_old_one_goes(planned: Any) -> None:
    found = planned("decode-0", "prefill-1", "frontend")
    assert actions(found) == [("replace", "prefill-1"), ("replace", "decode-0"), ("renew", "frontend")]
    assert (found.in_place, found.undo) == (("frontend",), False)


@pytest.mark.parametrize("how", [{"available": 3.5}, {"in_place": True}])
def test_without_room_for_a_second_one_it_is_restarted_in_its_place(
    planned: Any, how: dict[str, Any]
) -> None:
    found = planned("decode-0", "prefill-1", **how)
    assert actions(found) == [("renew", "prefill-1"), ("renew", "decode-0")]
    assert found.wanted.plan == found.now.plan


def test_a_worker_whose_gpu_has_no_room_is_restarted_in_its_place(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned()
    full = [Finding(Level.ERROR, "GPU 0 has 3 of 80 GiB free", "choose another")]
    monkeypatch.setattr(
        registry, "check_beside", lambda plan, *_: full if plan.units[0].role == "decode" else []
    )
    there = [one for one in state().units if one.name in ("decode-0", "prefill-0")]
    assert actions(restart.plan("default", there)) == [("replace", "prefill-0"), ("renew", "decode-0")]


def test_a_unit_that_is_down_is_not_restarted() -> None:
    folder = DeploymentDir("default")
    folder.write_state(state(decode_0="backoff"))
    folder.write_plan({"plan": hosts.plan(mode="disagg", engine="mocker").as_json(), "spec": {}})
    (down,) = restart.chosen("default", ["decode-0"], None, False)
    with pytest.raises(NotReadyError, match="decode-0 is backoff"):
        restart.plan("default", [down])


# ---- what the supervisor says --------------------------------------------------------------------


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A supervisor that says these lines to a request; the list has what was told."""

    def answers(*lines: str) -> list[str]:
        folder, told = DeploymentDir("default"), list[str]()
        listener = socket.socket(socket.AF_UNIX)
        monkeypatch.chdir(folder.path)
        listener.bind(folder.socket.name)
        listener.listen()

        def serve() -> None:
            line, _ = listener.accept()
            with line, line.makefile("rb") as question:
                question.readline()
                line.sendall("".join(f"{one}\n" for one in lines).encode())
            listener.close()

        threading.Thread(target=serve, daemon=True).start()
        with Line(folder, {"drain": "decode-0"}) as asked:
            asked.until_accepted()
            told.append(str(asked.answer(told.append)))
        return told

    return answers


def test_what_happens_is_told_until_the_answer(supervisor: Any) -> None:
    said = supervisor('{"told": ""}', '{"told": "decode-0: draining"}', '{"seconds": 2.0}')
    assert said == ["decode-0: draining", "{'seconds': 2.0}"]


def test_what_the_supervisor_refuses_is_said_with_its_exit_code(supervisor: Any) -> None:
    error = {"error": NotReadyError("decode-0 is starting", "wait").as_json()}
    with pytest.raises(DynamoctlError, match="decode-0 is starting") as refused:
        supervisor(json.dumps(error))
    assert (refused.value.exit_code, refused.value.hint) == (4, "wait")


@pytest.mark.parametrize("lines", [(), ('{"told": ""}',), ("[]",), ("no JSON",)])
def test_a_supervisor_that_does_not_answer(supervisor: Any, lines: tuple[str, ...]) -> None:
    with pytest.raises(NotReadyError, match="has ended or does not answer"):
        supervisor(*lines)


def test_a_supervisor_that_has_gone() -> None:
    with pytest.raises(NotReadyError, match="has ended or does not answer"):
        Line(DeploymentDir("default"), {"drain": "decode-0"})
