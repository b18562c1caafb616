"""`bench` with Dynamo's mocker: deployments measured in turn, and a measurement that is broken off."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from dynamoctl.host.processes import all_pids, environment_of

from .conftest import Cli, free_port, full_command_line

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


def test_ctrl_c_ends_the_load_generator_of_bench_and_not_the_deployment(cli: Cli) -> None:
    # A second of the mocker's takes two of ours: the measurement does not end before it is broken off.
    words = ("up", "agg", "--engine", "mocker", "-n", "measured", "--port", str(free_port()), "--drain", "0")
    done = cli(*words, "--", "--speedup-ratio", "0.5")
    assert done.code == 0, done.err
    running = cli.start(
        "bench", "random", "-n", "measured", "--requests", "400", "--input-tokens", "32",
        "--output-tokens", "100",
    )  # fmt: skip
    assert running.stderr is not None
    try:
        for line in running.stderr:
            if re.search(r"\b[1-9]\d* of 400\b", line):
                break
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "the load generator was ended" in err
    # Those of other tests may run.
    own = [pid for pid in all_pids() if environment_of(pid, "DYNAMOCTL_HOME") == str(cli.home)]
    assert not [pid for pid in own if "dynamoctl.bench.vllm_serve" in full_command_line(pid)]
    assert cli.status("measured")["state"] == "ready"
    assert cli("down", "-n", "measured").code == 0
