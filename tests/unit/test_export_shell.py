"""`export shell`: a script that shellcheck has nothing to say about, in the plan's order, without secrets.

tests/e2e/test_export_shell.py runs one. After a wanted change: UPDATE_GOLDEN=1, then read the diff.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dynamoctl import __version__
from dynamoctl.cli import run
from dynamoctl.errors import SpecError
from dynamoctl.export import local, shell
from dynamoctl.planner.plan import DeploymentPlan, Unit

from tests.unit.hosts import ETCD, FOLDER_MODEL, HUB_MODEL, plan
from tests.unit.test_plan_golden import GOLDEN, hold

# What would do harm if it were not quoted, or not kept out of a comment.
HOSTILE = replace(FOLDER_MODEL, path="/m\ntouch hacked", served_name="m;touch${IFS}hacked;#[1]")

ETCD_FIELDS: dict[str, Any] = {"discovery": "etcd", "etcd_endpoints": [ETCD]}

SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "agg-cpu": (0, {}),
    "disagg-mocker": (0, {"mode": "disagg", "engine": "mocker", "decode": 2}),
    "disagg-gpu": (2, {"mode": "disagg", "router_mode": "kv"}),
    "disagg-overlapped": (2, {"mode": "disagg", "start": "overlapped", "lmcache": {"mode": "mp"}}),
    "agg-secrets": (1, {"env": {"HF_TOKEN": "hf_abc"}, "lmcache": {"remote": "redis://u:pw@redis:6379"}}),
    "odd-words": (
        1,
        {"engine_args": ("--mm-prompt-template", "it's $HOME `a` \\"), "env": {"A": "1 'b' \"$c\""}},
    ),
    "hostile": (
        0,
        {"model_facts": HOSTILE, "host": "$(touch hacked)", "env": {"A": "\n"}},
    ),
    "many": (64, {"workers": 64, "lmcache": {"disk": "/a b", "disk_gb": 1}}),
}


def made(shape: str) -> tuple[DeploymentPlan, str]:
    gpus, fields = SHAPES[shape]
    asked = plan(gpus, **fields)
    return asked, shell.script(asked)


@pytest.mark.parametrize("shape", ["agg-cpu", "disagg-mocker", "disagg-gpu"])
def test_golden(shape: str) -> None:
    hold(
        made(shape)[1].replace(f"dynamoctl {__version__}", "dynamoctl VERSION"),
        GOLDEN / "shell" / f"{shape}.sh",
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_shellcheck_has_nothing_to_say(shape: str) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("no shellcheck here")
    done = subprocess.run(
        [program, "--shell=bash", "-"], input=made(shape)[1],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("host", "gate", "there"),
    [
        ("192.0.2.5", "http://192.0.2.5:8000/live", '"/dev/tcp/192.0.2.5/$port"'),
        ("::", "'http://[::1]:8000/live'", '"/dev/tcp/::1/$port"'),
        ("0.0.0.0", "http://127.0.0.1:8000/live", '"/dev/tcp/127.0.0.1/$port"'),
    ],
)
def test_a_gate_is_asked_where_its_unit_listens(host: str, gate: str, there: str) -> None:
    asked = plan(host=host)
    script = shell.script(asked)
    assert f"\nawait frontend is_200 {gate}\n" in script
    assert f"\nawait worker-0 is_200 http://127.0.0.1:{asked.unit('worker-0').gate.port}/health\n" in script
    assert f"if (: <>{there}) " in script


def test_a_gate_of_an_advertised_unit_is_asked_at_its_address() -> None:
    asked = plan(mode="disagg", engine="mocker", roles=["prefill"], advertise="10.0.0.1", **ETCD_FIELDS)
    gate = asked.unit("prefill-0").gate
    assert gate.host == "10.0.0.1"
    script = shell.script(asked)
    assert f"\nawait prefill-0 says http://10.0.0.1:{gate.port}/health " in script
    assert local.ports(asked) == {"10.0.0.1": (gate.port,)}
    assert f'port={gate.port}\nif (: <>"/dev/tcp/10.0.0.1/$port")' in script


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_seen_at_its_address(host: str, tmp_path: Path) -> None:
    try:
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        pytest.skip(f"no {host} here")
    with listener:
        port = listener.getsockname()[1]
        script = shell.script(plan(host=host, port=port, model_facts=HUB_MODEL))
        script = re.sub(r"^python=.*$", "python=/bin/true", script, flags=re.M)
        done = subprocess.run(
            ["bash"], input=script, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert f"port {port} is taken" in done.stderr
    assert done.returncode == 1


def steps(script: str) -> list[str]:
    return re.findall(r"^(?:start|await) [a-z]+(?:-\d+)?(?= |$)", script, re.M)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_unit_starts_after_those_before_it_and_each_gate_is_waited_for(shape: str) -> None:
    asked, script = made(shape)
    order = steps(script)
    names = [unit.name for unit in asked.units]
    assert [step for step in order if step.startswith("start")] == [f"start {name}" for name in names]
    assert sorted(step for step in order if step.startswith("await")) == sorted(
        f"await {name}" for name in names
    )
    for unit in asked.units:
        for name in unit.after:
            assert order.index(f"await {name}") < order.index(f"start {unit.name}")
    ends = " ".join(re.findall(r"^  end (.*)$", script.replace("\\\n", ""), re.M)).split()
    assert sorted(ends) == sorted(names)
    for unit in asked.units:
        for name in unit.after:
            assert asked.unit(name).role == unit.role or ends.index(unit.name) < ends.index(name)


def what_it_runs(asked: DeploymentPlan, script: str, unit: Unit, folder: Path, **env: str) -> dict[str, Any]:
    """Run one unit's function, with a program that prints its arguments and environment in its place."""
    spy = folder / "python"
    spy.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    spy.chmod(0o755)
    begin = script.index("# ---- what every process gets")
    end = script.index("# ---- start, in order")
    text = f"set -eu\nfolder={folder}\npython={spy}\n{script[begin:end]}\n{unit.name}\n"
    done = subprocess.run(
        ["bash", "-c", text], env={"PATH": "/usr/local/bin:/usr/bin:/bin", **env},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    words, environ = json.loads(done.stdout)
    return {"argv": words, "env": environ}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_runs_what_is_planned(shape: str, tmp_path: Path) -> None:
    asked, script = made(shape)
    for unit in asked.units[:4]:
        folder = tmp_path / unit.name
        folder.mkdir()
        callers = {
            "HF_TOKEN": "mine",
            "DYN_CONNECTOR": "x",
            "DYN_SYSTEM_PORT": "1",
            "LMCACHE_REMOTE_URL": "redis://r",
        }
        seen = what_it_runs(asked, script, unit, folder, **callers)
        assert seen["argv"] == list(unit.argv[1:])
        planned = dict(unit.env)
        assert seen["env"]["DYN_FILE_KV"] == f"{folder}/store"
        del planned["DYN_FILE_KV"]
        for secret in ("HF_TOKEN", "LMCACHE_REMOTE_URL"):
            if planned.pop(secret, None):
                assert seen["env"][secret] == callers[secret]
        assert {name: seen["env"].get(name) for name in planned} == planned
        assert not set(unit.unset) & set(seen["env"])


def test_a_secret_is_asked_for_and_not_written() -> None:
    _, script = made("agg-secrets")
    assert "hf_abc" not in script
    assert "pw@" not in script
    assert ': "${HF_TOKEN:?' in script
    assert ': "${LMCACHE_REMOTE_URL:?' in script
    assert "Set before: HF_TOKEN, LMCACHE_REMOTE_URL." in script


def test_a_secret_in_a_command_line_is_refused() -> None:
    with pytest.raises(SpecError, match="its command line contains a password"):
        shell.script(plan(1, engine_args=("--revision", "redis://u:pw@h")))


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DYNAMOCTL_CACHE", str(tmp_path / "cache"))
    words = shlex.split("export shell agg --device cpu --no-lmcache --timeout 0.5 --json -o run.sh")
    assert run(words) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["program"], body["format"], body["path"]) == ("shell", "script", "run.sh")
    assert body["content"] == (tmp_path / "run.sh").read_text()
    assert "\ntimeout=1 " in body["content"]
    (note,) = body["notes"]
    assert "`dynamoctl up` puts it there" in note
    done = subprocess.run(["./run.sh"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "there is no model in" in done.stderr
    assert not (tmp_path / "default-logs").exists()


def test_nothing_that_a_user_names_is_run(tmp_path: Path) -> None:
    _, script = made("hostile")
    assert "/v1/models/m%3Btouch%24%7BIFS%7Dhacked%3B%23%5B1%5D/ready" in script
    (tmp_path / "run.sh").write_text(script)
    subprocess.run(["bash", "run.sh"], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run.sh"]
