"""A worker that comes back with another copy of the model than the others have."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from .conftest import Cli, free_port, wait_for

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(300)]


def kill_and_wait(cli: Cli, name: str, unit: str, restarts: int) -> None:
    pids = {one["name"]: one["pid"] for one in cli.status(name)["units"]}
    os.kill(pids[unit], signal.SIGKILL)

    def is_back() -> bool:
        one = next(one for one in cli.status(name)["units"] if one["name"] == unit)
        return bool(one["restarts"] == restarts and one["state"] == "ready")

    wait_for(is_back, 60)


@pytest.mark.fault(
    "a worker comes back with another copy of the model",
    "is `degraded`, and `status` says which workers differ in which files",
)
def test_a_worker_that_comes_back_with_another_copy(cli: Cli, copied_model: Path) -> None:
    up = cli(
        "up", "agg", "-n", "copies", "--port", str(free_port()), "--engine", "mocker", "--workers", "2",
        "--model", str(copied_model), "--start", "overlapped", "--drain", "0",
    )  # fmt: skip
    assert up.code == 0, up.err
    settings = json.loads((copied_model / "tokenizer_config.json").read_text())
    (copied_model / "tokenizer_config.json").write_text(json.dumps({**settings, "another": True}))
    kill_and_wait(cli, "copies", "worker-1", restarts=1)
    body = wait_for(lambda: (b := cli.status("copies"))["warnings"] and b, 30)
    assert body["state"] == "degraded"
    (warning,) = body["warnings"]
    assert warning.startswith("workers registered different copies of copied: tokenizer_config.json is ")
    assert "(worker-0), " in warning
    assert "(worker-1): give every host the same model" in warning
    # The other one gets it as well, and all is well.
    kill_and_wait(cli, "copies", "worker-0", restarts=1)
    wait_for(lambda: cli.status("copies")["state"] == "ready", 60)
    assert cli.status("copies")["warnings"] == []
    assert cli("down", "-n", "copies").code == 0
