"""A running deployment whose plan.json is missing or damaged: an error that says so, never a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from dynamoctl.cli import run
from dynamoctl.host.processes import identify
from dynamoctl.state import DeploymentDir, DeploymentState, UnitState

COMMANDS = ["cache check", "cache clear", "bench reuse", "bench random", "export prometheus"]
DAMAGES = {
    "missing": (None, "is missing"),
    "empty": ("", "is damaged"),
    "cut off": ('{"start_id": "1", "pl', "is damaged"),
    "not UTF-8": ("\x80", "is damaged"),
    "a list": ("[]", "is damaged"),
    "without a plan": ('{"start_id": "1"}', "is damaged"),
    "a plan of nothing": ('{"plan": null}', "is damaged"),
    "a plan that is a list": ('{"plan": [1]}', "is damaged"),
    "a plan without units": ('{"plan": {"name": "default"}}', "is damaged"),
    "units that are words": ('{"plan": {"name": "default", "units": ["worker-0"]}}', "is damaged"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeploymentDir:
    """A deployment that is ready; its only process is this one."""
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder, me = DeploymentDir("default"), identify(os.getpid())
    state = DeploymentState("default", "agg", "m", "http://127.0.0.1:9", "1", "ready", supervisor=me)
    state.ready_at = 1.0
    state.units = [UnitState("worker-0", "agg", "ready", identity=me)]
    folder.write_state(state)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_error_names_the_file_and_the_fix(
    folder: DeploymentDir, capsys: pytest.CaptureFixture[str], command: str, damage: str
) -> None:
    content, what = DAMAGES[damage]
    if content is not None:
        folder.plan_file.write_bytes(content.encode("latin-1"))
    before = folder.state_file.read_bytes()
    assert run([*command.split(), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == 1
    assert error["message"].startswith(f"{folder.plan_file} {what}")
    assert "dynamoctl down -n default" in error["hint"]
    assert folder.state_file.read_bytes() == before
