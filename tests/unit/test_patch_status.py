"""The patches of a deployment's workers: what `status` shows of them, and what the supervisor asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dynamoctl.cli.draw import draw_status
from dynamoctl.host.processes import Identity, boot_id
from dynamoctl.operations.status import status
from dynamoctl.processes import process_control
from dynamoctl.state import DeploymentDir
from dynamoctl.supervisor import starting
from dynamoctl.supervisor.deployment import Deployment

from tests.unit.hosts import plan

HEARTBEAT = "DYNAMOCTL_ENGINE_HEARTBEAT"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    return tmp_path


def deployment(**fields: Any) -> Deployment:
    """A disaggregated one on two GPUs, of which nothing runs."""
    made = plan(2, mode="disagg", **fields)
    DeploymentDir("default").write_plan({"plan": made.as_json(), "start_id": "start"})
    return Deployment("default")


WANTED = {
    "frontend": [],
    "decode-0": ["compile-cache-name"],
    "prefill-0": ["compile-cache-name", "end-engine", "packed-kv"],
}


@pytest.mark.usefixtures("home")
def test_status_names_each_units_patches(capsys: pytest.CaptureFixture[str]) -> None:
    supervised = deployment()
    supervised.folder.write_state(supervised.state)
    answer = status("default")
    assert {unit.name: list(unit.patches) for unit in answer.units} == WANTED
    draw_status(answer)
    assert "patches: compile-cache-name, end-engine, packed-kv\n" in capsys.readouterr().out


@pytest.mark.usefixtures("home")
def test_without_patches_status_has_no_line_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    supervised = deployment(versions={})
    supervised.folder.write_state(supervised.state)
    answer = status("default")
    assert {unit.patches for unit in answer.units} == {()}
    draw_status(answer)
    assert "patches" not in capsys.readouterr().out


@pytest.mark.parametrize("own", [{}, {HEARTBEAT: ""}])
def test_the_supervisor_has_each_worker_pinged_unless_the_user_has_switched_it_off(
    own: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str | None] = {}

    def spawn(_argv: Any, environ: dict[str, str], work: Path, _log: Any) -> Identity:
        seen[work.name] = environ.get(HEARTBEAT)
        return Identity(1, 0, boot_id())

    monkeypatch.delenv(HEARTBEAT, raising=False)
    monkeypatch.setattr(process_control, "spawn", spawn)
    monkeypatch.setattr(
        Deployment, "sockets", lambda _self: {}
    )  # a folder in /tmp, which nobody would remove
    supervised = deployment(env=own)
    for member in supervised.members:
        starting.start(supervised, member)
    run = home / "deployments" / "default" / "run"
    is_off = bool(own)
    assert seen == {
        "frontend": "" if is_off else None,
        "decode-0": "" if is_off else str(run / "decode-0"),
        "prefill-0": "" if is_off else str(run / "prefill-0"),
    }
