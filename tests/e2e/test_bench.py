"""Deployments measured in turn, with Dynamo's mocker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Cli, free_port

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(300)]


def test_compare_names_the_variant_that_fails_and_reports_the_others(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text('mode = "agg"\nworkers = 2\n')
    (tmp_path / "broken.toml").write_text('mode = "agg"\nmodel = "no-such-folder/at/all"\n')
    words = ("--engine", "mocker", "--port", str(free_port()), "--workload", "random", "--set", "requests=4")
    done = cli(
        "bench", "compare", "agg", "broken.toml", "two.toml", *words, "--set", "input-tokens=64",
        "--output", "compared.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 1, done.err
    assert "1 variant of 3 failed" in done.err
    body = json.loads((tmp_path / "compared.json").read_text())
    assert (body["schema"], body["ok"], body["against"]) == ("dynamoctl/bench-compare/v1", False, "agg")
    assert [(one["name"], one["ok"]) for one in body["variants"]] == [
        ("agg", True), ("broken", False), ("two", True),
    ]  # fmt: skip
    assert "no-such-folder" in body["variants"][1]["error"]["message"]
    one, _, two = body["variants"]
    assert [len(each["bench"]["workers"]) for each in (one, two)] == [1, 2]
    assert [each["bench"]["passes"][0]["requests"] for each in (one, two)] == [4, 4]
    assert two["ratios"]["total_tokens_per_s"] > 0
    assert cli.ours() == {}
    assert {cli.status(f"bench-{number}")["state"] for number in (1, 3)} == {"stopped"}
