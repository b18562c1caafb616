"""A living deployment is changed while clients ask: none of them may notice."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli, free_port, wait_for
from .streams import InFlight

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"
PER_SECOND, TOKENS = 20, 40
PROMPTS = [f"Story number {number}. Once upon a time" for number in range(5)]


def _steady_load() -> Any:
    """The benchmark's client: it is a script beside others, and not part of a package."""
    spec = util.spec_from_file_location("steady_load", ROOT / "benchmarks" / "steady_load.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Living:
    """Mockers whose second is one of ours, in a deployment of its own.

    Attributes:
        flags: those of `up`; `apply` takes the same ones.
    """

    def __init__(self, cli: Cli, name: str, *words: str) -> None:
        self.cli, self.name, port = cli, name, free_port()
        self.flags = (*words, "-n", name, "--port", str(port), "--start", "overlapped", "--engine", "mocker")
        self.endpoint = f"http://127.0.0.1:{port}"
        self("up", *self.flags, "--", "--speedup-ratio", "1")

    def __call__(self, *words: str, code: int = 0) -> str:
        """One command; what it says."""
        done = self.cli(*words)
        assert done.code == code, done.err
        return done.out + done.err

    def units(self) -> dict[str, dict[str, Any]]:
        return {unit["name"]: unit for unit in self.cli.status(self.name)["units"]}

    def pids(self) -> dict[str, int]:
        return {name: unit["pid"] for name, unit in self.units().items()}

    def history(self) -> list[tuple[str, str]]:
        found = self.cli("history", self.name, "--json").json["revisions"]
        return [(one["what"], one["outcome"]) for one in found]


@pytest.fixture
def living(cli: Cli) -> Iterator[Living]:
    one = Living(cli, "steady", "disagg", "--drain", "10")
    yield one
    one("down", "-n", "steady")


def test_no_client_notices_any_change(living: Living, tmp_path: Path) -> None:
    other, broken = tmp_path / "other.toml", tmp_path / "broken.toml"
    other.write_text('[env]\nSOMETHING = "1"\n')
    broken.write_text(f'decode_args = ["--extra-engine-args", "{tmp_path}/none.json"]\n')
    apply = ("apply", *living.flags, "--workers-only")
    before = living.pids()
    load = _steady_load().SteadyLoad(living.endpoint, MODEL, PER_SECOND, TOKENS)
    try:
        shown = living("scale", "decode", "3", "-n", "steady", "--dry-run")
        assert shown.startswith("+ decode-1  ports system ")
        living("scale", "decode", "3", "-n", "steady")
        living("scale", "prefill", "2", "-n", "steady")
        assert set(living.units()) == {
            "frontend",
            "decode-0",
            "decode-1",
            "decode-2",
            "prefill-0",
            "prefill-1",
        }
        # Who was there has not been touched.
        assert before.items() <= living.pids().items()
        living("scale", "decode", "1", "-n", "steady")
        living("scale", "prefill", "1", "-n", "steady")
        assert living.pids() == before
        living("restart", "steady", "decode-0", "prefill-0")
        restarted = living.pids()
        assert not {"decode-0", "prefill-0"} & {name for name in before if before[name] == restarted[name]}
        said = living(*apply, "--config", str(other), "--", "--speedup-ratio", "1")
        assert "SOMETHING: unset -> '1'" in said
        applied = living.pids()
        assert {name for name in applied if applied[name] == restarted[name]} == {"frontend"}
        said = living(*apply, "--config", str(broken), "--", "--speedup-ratio", "1", code=4)
        assert "decode-0~3 ended after " in said
        # prefill-0 had been changed by then, and was changed back.
        assert living.pids()["decode-0"] == applied["decode-0"]
    finally:
        streams = load.end()
    lost = [str(one) for one in streams if not one.is_whole(TOKENS)]
    print(f"{len(streams)} answers, the longest gap {max(one.longest_gap_s for one in streams):.2f} s")
    assert lost == []
    assert len(streams) > 10 * PER_SECOND
    status = living.cli.status("steady")
    assert (status["state"], status["load"]["failed_requests_total"], status["change"]) == ("ready", 0, None)
    *_, last = living.history()
    assert last[1].startswith("failed: decode-0~3 ended")
    # An earlier revision is a plan like any other.
    living("apply", "-n", "steady", "--to", "1", "--workers-only")
    assert all("SOMETHING" not in unit["env"] for unit in living.cli.units("steady").values())
    left = {path.name for path in (living.cli.home / "deployments" / "steady" / "run").iterdir()}
    assert len(left) == 3, left


def test_a_worker_is_drained_by_hand(living: Living) -> None:
    living("scale", "decode", "2", "-n", "steady")
    assert "no other prefill worker takes requests" in living("drain", "steady", "prefill-0", code=2)
    living("drain", "steady", "decode-0")
    assert living.units()["decode-0"]["service"] == "drained"
    for _ in range(4):
        InFlight(living.endpoint, MODEL, PROMPTS, 5).end(120)
    assert "no other decode worker takes requests" in living("drain", "steady", "decode-1", code=2)
    # Nor does its next process get any.
    before = living.pids()["decode-0"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: living.pids()["decode-0"] not in (None, before) and is_drained(living, "decode-0"))
    living("undrain", "steady", "decode-0")
    assert living.units()["decode-0"]["service"] is None
    living("drain", "steady", "decode-1")
    answers = InFlight(living.endpoint, MODEL, PROMPTS, 5).end(120)
    assert all(one.is_whole(5) for one in answers), answers


def is_drained(living: Living, name: str) -> bool:
    unit = living.units()[name]
    return (unit["state"], unit["service"]) == ("ready", "drained")


@pytest.mark.fault(
    "SIGKILL to the command, in the middle of a `scale`",
    "the change goes on to its end",
)
@pytest.mark.fault(
    "SIGKILL to a new unit before it counts",
    "removes what is left of it; the command says why, and the others serve on",
)
@pytest.mark.fault(
    "SIGKILL to a worker that is drained to be removed",
    "moves its requests to another worker, and goes on with the change",
)
@pytest.mark.fault(
    "SIGKILL to the supervisor, in the middle of a `scale`",
    "`status` says at which step; `down` removes what is there",
)
def test_who_is_killed_in_the_middle_of_a_change(cli: Cli) -> None:
    living = Living(cli, "killed", "agg")
    with cli.start("scale", "worker", "2", "-n", "killed") as scaling:
        wait_for(lambda: cli.status("killed")["change"])
        scaling.kill()
    wait_for(lambda: "worker-1" in living.units() and cli.status("killed")["change"] is None)
    assert living.history()[-1] == ("scale worker 2", "done")

    with cli.start("scale", "worker", "3", "-n", "killed") as scaling:
        joining = wait_for(lambda: living.units().get("worker-2", {}).get("pid"))
        assert living.units()["worker-2"]["service"] == "joining"
        os.kill(joining, signal.SIGKILL)
        _, said = scaling.communicate(timeout=120)
    assert scaling.returncode == 4, said
    assert "worker-2 ended after " in said
    assert set(living.units()) == {"frontend", "worker-0", "worker-1"}
    assert living.history()[-1][1].startswith("failed: worker-2 ended")

    streams = InFlight(living.endpoint, MODEL, PROMPTS, 400)
    streams.wait_until(lambda one: one.chunks > 0, len(PROMPTS))
    with cli.start("scale", "worker", "1", "-n", "killed") as scaling:
        leaving = wait_for(lambda: is_leaving(living, "worker-1"))
        os.kill(leaving, signal.SIGKILL)
        _, said = scaling.communicate(timeout=120)
    assert scaling.returncode == 0, said
    assert all(one.is_whole(400) for one in streams.end(120)), streams.answers
    assert set(living.units()) == {"frontend", "worker-0"}

    with cli.start("scale", "worker", "2", "-n", "killed") as scaling:
        wait_for(lambda: living.units().get("worker-1", {}).get("pid"))
        os.kill(cli.supervisor("killed"), signal.SIGKILL)
        _, said = scaling.communicate(timeout=30)
    assert scaling.returncode == 4, said
    assert "the supervisor of 'killed' has ended or does not answer" in said
    status = cli.status("killed")
    assert status["state"] == "unsupervised"
    assert "its supervisor ended during scale worker 2: adding worker-1" in status["warnings"]
    assert cli("scale", "worker", "2", "-n", "killed").code == 2
    living("down", "-n", "killed")
    assert living.history()[-1] == ("scale worker 2", "interrupted")


def is_leaving(living: Living, name: str) -> int:
    """Its process, while it finishes what it has."""
    unit = living.units().get(name, {})
    time.sleep(0.1)
    return int(unit["pid"] or 0) if unit.get("service") == "leaving" else 0
