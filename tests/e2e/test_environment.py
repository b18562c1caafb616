"""A shell full of variables that would undo a plan, and paths that are relative to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dynamoctl.host.processes import environment_of

from .conftest import Cli, free_port

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(120)]

# Each of them alone ends a start of Dynamo 1.6.1 with its mocker, or lets it wait for its deadline.
UNDOING = {
    "DYN_HTTP_SVC_CMP_PATH": "/cmp",
    "DYN_HTTP_SVC_LIVE_PATH": "/alive",
    "DYN_HTTP_SVC_MODELS_PATH": "/m",
    "DYN_INTERACTIVE": "1",
    "DYN_KSERVE_GRPC_SERVER": "1",
    "DYN_MODEL_PATH": "/tmp",
    "DYN_NAMESPACE_PREFIX": "other",
    "DYN_NAMESPACE_WORKER_SUFFIX": "x",
    "DYN_ROUTER_CONDITIONAL_DISAGG": "1",
    "DYN_ROUTER_MIN_INITIAL_WORKERS": "3",
    "DYN_ROUTER_MODE": "direct",
    "DYN_ROUTER_PREFILL_LOAD_MODEL": "ais",
    "DYN_SERVE_INDEXER": "1",
    "DYN_SYSTEM_HEALTH_PATH": "/h",
    "DYN_TCP_RPC_PORT": "18123",
    "DYN_TLS_CERT_PATH": "/c.pem",
    "DYN_TOPOLOGY_ENABLED": "1",
}


def test_a_deployment_starts_in_a_shell_that_would_undo_its_plan(cli: Cli, tmp_path: Path) -> None:
    port = str(free_port())
    words = ("--engine", "mocker", "--workers", "2", "-n", "shell", "--port", port, "--timeout", "60")
    shell = replace(cli, environ={**UNDOING, "HF_HOME": "./models"})
    up = shell("up", "agg", *words, cwd=tmp_path)
    assert up.code == 0, up.err
    for name, value in UNDOING.items():
        assert f"{name}={value} in your environment is not used" in up.err
    workers = [unit for unit in cli.status("shell")["units"] if unit["role"] == "agg"]
    for unit in workers:
        assert environment_of(unit["pid"], "HF_HOME") == f"{tmp_path}/models"
        assert environment_of(unit["pid"], "DYN_NAMESPACE_WORKER_SUFFIX") is None
    assert cli("down", "-n", "shell").code == 0
