"""The plans of the common deployments, printed and as JSON, held against tests/golden/.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/unit/test_plan_golden.py, then read the diff.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.planner.printed import render

from tests.unit.hosts import ETCD, VERSIONS, plan

# One deployment on two hosts: each plans its own part.
ON_TWO = {"mode": "disagg", "discovery": "etcd", "etcd_endpoints": ETCD}

GOLDEN = Path(__file__).parents[1] / "golden"

# Name -> (GPUs of the host, the spec's fields). On GPUs the set 1.4, unless it is said.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "agg-cpu": (0, {}),
    "agg-gpu": (1, {}),
    "agg-gpu-no-lmcache": (1, {"lmcache": {"enabled": False}}),
    "agg-gpu-mp": (1, {"lmcache": {"mode": "mp"}}),
    "agg-gpu-1.6": (1, {"versions": VERSIONS}),
    "disagg-gpus-0-1-1.6": (2, {"mode": "disagg", "gpus": "0,1", "versions": VERSIONS}),
    "disagg-cpu": (0, {"mode": "disagg"}),
    "disagg-gpus-0-1": (2, {"mode": "disagg", "gpus": "0,1"}),
    "disagg-gpus-0-0": (1, {"mode": "disagg", "gpus": "0,0"}),
    "disagg-gpus-0-0-overlapped": (1, {"mode": "disagg", "gpus": "0,0", "start": "overlapped"}),
    "disagg-8-gpus-tp-2": (8, {"mode": "disagg", "decode": 2, "prefill": 2, "tp": 2}),
    "disagg-router-kv": (2, {"mode": "disagg", "router_mode": "kv"}),
    "disagg-overlapped": (2, {"mode": "disagg", "start": "overlapped"}),
    "disagg-mocker": (0, {"mode": "disagg", "engine": "mocker"}),
    "hosts-cpu-frontend-decode": (0, {**ON_TWO, "roles": "frontend,decode", "advertise": "eth0"}),
    "hosts-cpu-prefill": (0, {**ON_TWO, "roles": "prefill", "advertise": "10.0.0.9"}),
    "hosts-gpu-prefill-rdma": (2, {**ON_TWO, "roles": "prefill", "advertise": "ib0", "tp": 2}),
}


def hold(text: str, file: Path) -> None:
    """Fail with a diff where the text is not the file's; write it where UPDATE_GOLDEN is set."""
    if os.environ.get("UPDATE_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return
    golden = file.read_text(encoding="utf-8") if file.exists() else ""
    diff = difflib.unified_diff(
        golden.splitlines(), text.splitlines(), f"golden/{file.name}", "now", lineterm=""
    )
    assert text == golden, "\n".join(diff)


@pytest.mark.parametrize("case", CASES)
def test_printed(case: str) -> None:
    gpus, fields = CASES[case]
    hold(render(plan(gpus, **fields)) + "\n", GOLDEN / f"{case}.txt")


@pytest.mark.parametrize("case", CASES)
def test_json(case: str) -> None:
    gpus, fields = CASES[case]
    hold(json.dumps(plan(gpus, **fields).as_json(), indent=2) + "\n", GOLDEN / f"{case}.json")


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {file.stem for file in GOLDEN.iterdir() if file.is_file()} == set(CASES)
