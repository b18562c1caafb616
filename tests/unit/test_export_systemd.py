"""`export systemd`: units that systemd takes, in the plan's order, without secrets."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from dynamoctl import __version__, policies
from dynamoctl.cli import run
from dynamoctl.errors import SpecError
from dynamoctl.export import local, systemd
from dynamoctl.planner.plan import DeploymentPlan

from tests.unit.hosts import FOLDER_MODEL, plan
from tests.unit.test_plan_golden import GOLDEN, hold

USER = systemd.Manager()
SYSTEM = systemd.Manager("system", "daemon")


def made(plan_: DeploymentPlan, manager: systemd.Manager = USER) -> dict[str, str]:
    return systemd.units(plan_, manager)


def values(text: str, key: str) -> list[str]:
    """What a unit file says for a key, in order."""
    joined = text.replace("\\\n", "")
    return [line.partition("=")[2] for line in joined.splitlines() if line.startswith(f"{key}=")]


HOSTILE = replace(FOLDER_MODEL, path="/m\nExecStart=/bin/false")

SHAPES = {
    "agg-cpu": plan(),
    "agg-mocker": plan(engine="mocker", workers=2),
    "disagg-gpu": plan(2, mode="disagg", router_mode="kv"),
    "disagg-mp": plan(8, mode="disagg", decode=2, prefill=2, tp=2, lmcache={"mode": "mp"}),
    "hostile": plan(model_facts=HOSTILE, env={"A": "1\n[Service]\r\x1b"}),
    "odd-words": plan(
        1,
        engine_args=("--mm-prompt-template", "50% of $HOME 'a' \"b\" \\c", "--generation-config", ""),
        env={"A": "1 $B %n 'c' \"d\""},
    ),
}


@pytest.mark.parametrize("shape", ["disagg-gpu", "agg-cpu"])
def test_golden(shape: str) -> None:
    text = systemd.together(made(SHAPES[shape])).replace(f"dynamoctl {__version__}", "dynamoctl VERSION")
    hold(text, GOLDEN / "systemd" / f"{shape}.txt")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("manager", [USER, SYSTEM], ids=["user", "system"])
def test_systemd_takes_them(shape: str, manager: systemd.Manager, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here")
    # It wants to find the programs.
    there = {
        name: text.replace("ExecStart=python ", "ExecStart=/bin/true ")
        for name, text in made(SHAPES[shape], manager).items()
    }
    for name, text in there.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "run").mkdir(mode=0o700)
    scope = ["--user"] if manager is USER else []
    done = subprocess.run(
        [program, "verify", *scope, *(str(tmp_path / name) for name in there)],
        env={"XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "dynamoctl" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", SHAPES)
def test_each_unit_is_a_service_and_starts_after_those_before_it(shape: str) -> None:
    asked, files = SHAPES[shape], made(SHAPES[shape])
    stem = "dynamoctl-default"
    services = [f"{stem}-{unit.name}.service" for unit in asked.units]
    assert set(files) == {f"{stem}.target", f"{stem}-store.service", *services}
    assert values(files[f"{stem}.target"], "Wants") == [f"{stem}-store.service", *services]
    for unit in asked.units:
        text = files[f"{stem}-{unit.name}.service"]
        after = [f"{stem}-{name}.service" for name in ("store", *unit.after)]
        assert values(text, "After") == after
        assert values(text, "PartOf") == [f"{stem}.target"]
        # A restart of the frontend must not restart its workers.
        assert values(text, "Requires") == [f"{stem}-store.service"]
        assert f":{unit.gate.port}{unit.gate.path}" in values(text, "ExecStartPost")[0]


def test_the_store_is_one_of_their_own_and_fresh() -> None:
    files = made(plan())
    store = files["dynamoctl-default-store.service"]
    assert values(store, "ExecStart") == [
        "/bin/rm -rf %t/dynamoctl-default/store",
        "/bin/mkdir -m 700 %t/dynamoctl-default/store",
    ]
    for name, text in files.items():
        if name.endswith(".service") and "store" not in name:
            assert "DYN_FILE_KV=%t/dynamoctl-default/store" in values(text, "Environment")
            assert plan().store not in text


def test_what_a_unit_may_not_see_is_taken_away() -> None:
    asked = plan()
    for unit in asked.units:
        text = made(asked)[f"dynamoctl-default-{unit.name}.service"]
        assert values(text, "UnsetEnvironment") == [" ".join(unit.unset)]


def test_words_come_through_systemds_quoting() -> None:
    text = made(SHAPES["odd-words"])["dynamoctl-default-worker-0.service"]
    command = values(text, "ExecStart")[0]
    assert r'--mm-prompt-template "50%% of $$HOME ' in command
    assert r"""'a' \"b\" \\c" """ in command
    assert command.rstrip().endswith("--generation-config ''")
    assert r'''"A=1 $B %%n 'c' \"d\""''' in values(text, "Environment")


def test_a_secret_is_named_and_not_written() -> None:
    asked = plan(1, env={"HF_TOKEN": "hf_abc"}, lmcache={"remote": "redis://u:pw@redis:6379"})
    files = made(asked)
    assert not any("hf_abc" in text or "pw@" in text for text in files.values())
    assert local.secrets(asked) == ("HF_TOKEN", "LMCACHE_REMOTE_URL")
    assert "and set: HF_TOKEN, LMCACHE_REMOTE_URL" in files["dynamoctl-default.target"]
    service = files["dynamoctl-default-worker-0.service"]
    assert values(service, "EnvironmentFile") == ["%E/dynamoctl/default.env"]  # it must be there
    assert values(made(plan())["dynamoctl-default-worker-0.service"], "EnvironmentFile")[0].startswith("-")


def test_the_machines_manager_runs_it_as_somebody() -> None:
    files = made(plan(), SYSTEM)
    for name, text in files.items():
        assert values(text, "User") == ([] if name.endswith(".target") else ["daemon"])
    assert values(files["dynamoctl-default.target"], "WantedBy") == ["multi-user.target"]
    assert values(made(plan())["dynamoctl-default.target"], "WantedBy") == ["default.target"]
    with pytest.raises(SpecError, match="as root"):
        systemd.Manager("system")
    with pytest.raises(SpecError, match="as that user"):
        systemd.Manager("user", "llm")


def test_they_restart_and_stop_as_the_supervisor_does() -> None:
    text = made(plan(drain_s=7.5))["dynamoctl-default-worker-0.service"]
    assert values(text, "TimeoutStopSec") == ["33"]  # whole seconds, and not less than the supervisor gives
    assert values(text, "StartLimitBurst") == [str(policies.RESTART_LIMIT + 1)]
    assert values(text, "StartLimitIntervalSec") == [f"{policies.RESTART_WINDOW_S:g}"]
    assert values(text, "RestartSec") == [f"{policies.BACKOFF_FIRST_S:g}"]
    assert values(text, "ExecStopPost") == [f"/bin/sleep {policies.TRACKER_PATIENCE_S:g}"]


@pytest.mark.parametrize(
    ("host", "origin", "direct"),
    [
        ("192.0.2.5", "http://192.0.2.5:8000/live", "localhost,127.0.0.1,192.0.2.5"),
        ("::", "'http://[::1]:8000/live'", "localhost,127.0.0.1,::1"),
        ("2001:db8::5", "'http://[2001:db8::5]:8000/live'", "localhost,127.0.0.1,2001:db8::5"),
        ("0.0.0.0", "http://127.0.0.1:8000/live", "localhost,127.0.0.1"),
    ],
)
def test_a_gate_is_asked_where_its_unit_listens(host: str, origin: str, direct: str) -> None:
    files = made(plan(host=host))
    (asks,) = values(files["dynamoctl-default-frontend.service"], "ExecStartPost")
    assert f"--noproxy {direct} " in asks
    assert f"/dev/null {origin}; do" in asks
    (asks,) = values(files["dynamoctl-default-worker-0.service"], "ExecStartPost")
    assert " http://127.0.0.1:" in asks


def test_a_gate_runs_nothing_that_a_user_names() -> None:
    (asks,) = values(made(plan(host="$(false)%n"))["dynamoctl-default-frontend.service"], "ExecStartPost")
    assert "'http://$$(false)%%n:8000/live'" in asks
    assert "kill -0 $$MAINPID" in asks


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://hub")
    words = ["export", "systemd", "agg", "--device", "cpu", "--model", str(tmp_path)]
    assert run([*words, "-o", "units/of/mine"]) == 0
    shown = capsys.readouterr()
    assert "wrote 5 files to units/of/mine" in shown.err
    assert "HF_ENDPOINT is set here" in shown.err
    written = sorted(file.name for file in (tmp_path / "units" / "of" / "mine").iterdir())
    assert run([*words, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["program"], body["format"], body["path"]) == ("systemd", "units", None)
    assert sorted(body["content"]) == written
    assert run(words) == 0
    out = capsys.readouterr().out
    assert [line.split()[2] for line in out.splitlines() if line.startswith("# ==== ")] == list(
        body["content"]
    )
    for text in body["content"].values():
        configparser.RawConfigParser(strict=False, delimiters="=").read_string(text)
    (tmp_path / "file").touch()
    assert run([*words, "-o", "file"]) == 3
    assert "cannot write to file" in capsys.readouterr().err
    assert run([*words, "--scope", "system"]) == 2
    assert "--run-as llm" in capsys.readouterr().err


def test_nothing_that_a_user_names_is_a_setting() -> None:
    files = made(SHAPES["hostile"])
    lines = [line for text in files.values() for line in text.splitlines()]
    assert not [line for line in lines if line.startswith("ExecStart=/bin/false")]
    assert r'''Environment="A=1\x0a[Service]\x0d\x1b"''' in lines
