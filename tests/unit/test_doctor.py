"""What `up` would stumble over: the findings that need no real host."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import socket
import threading
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.checks import (
    descriptors,
    leftovers,
    machine,
    memory,
    nats,
    plugin,
    registry,
    shared_memory,
    tiers,
    trials,
)
from dynamoctl.checks import (
    gpus as gpu_checks,
)
from dynamoctl.checks import model as model_check
from dynamoctl.checks import (
    versions as version_checks,
)
from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.cli import run
from dynamoctl.errors import PreflightError
from dynamoctl.host import gpus, models
from dynamoctl.host.processes import identify
from dynamoctl.operations import doctor
from dynamoctl.operations.planning import PlanningResult
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import DeploymentDir, DeploymentState
from dynamoctl.tested_versions import SETS

from tests.unit.hosts import FOLDER_MODEL, GPU_VERSIONS, VERSIONS, host, plan, spec
from tests.unit.installed import of_pyproject


def look(
    check: Check, made: DeploymentPlan, on: int = 0, versions: Mapping[str, str] | None = None
) -> list[Finding]:
    """What a check finds on a host with so many GPUs."""
    return check.run(made, host(on, versions=versions), FOLDER_MODEL)


def ok(check: Check, made: DeploymentPlan, on: int = 0) -> str:
    """What a check says on a host with so many GPUs if it found nothing."""
    return check.ok(made, host(on), FOLDER_MODEL)


# ---- levels ---------------------------------------------------------------------------------


def test_levels_sort_errors_first_and_what_is_right_last() -> None:
    assert sorted([Level.OK, Level.WARNING, Level.ERROR]) == [Level.ERROR, Level.WARNING, Level.OK]
    assert [level.label for level in Level] == ["error", "warning", "ok"]


def some_check(*findings: Finding) -> Check:
    return Check("some", lambda *_: list(findings), lambda *_: "")


def test_findings_of_all_checks_come_errors_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Finding(Level.WARNING, "w1", "f1"), Finding(Level.ERROR, "e1", "f2")
    third, fourth = Finding(Level.WARNING, "w2", "f3"), Finding(Level.ERROR, "e2", "f4")
    checks = (some_check(first), some_check(second, third), some_check(), some_check(fourth))
    monkeypatch.setattr(registry, "PREFLIGHT", checks)
    assert registry.check(plan(), host(), FOLDER_MODEL) == [second, fourth, first, third]


def test_up_stops_at_errors_and_goes_on_with_warnings() -> None:
    warning, error = Finding(Level.WARNING, "w", "fix w"), Finding(Level.ERROR, "e1", "fix e1")
    assert registry.require([warning]) == ["w: fix w"]
    with pytest.raises(PreflightError) as caught:
        registry.require([error, Finding(Level.ERROR, "e2", "fix e2"), warning])
    assert (caught.value.message, caught.value.hint) == ("e1", "fix e1\nalso: e2: fix e2")


def test_every_check_has_a_name_of_its_own() -> None:
    names = [check.name for check in (*registry.PREFLIGHT, *registry.DOCTOR_ONLY)]
    assert len(names) == len(set(names))


# ---- the plugin -----------------------------------------------------------------------------


def plugin_findings(**fields: Any) -> list[str]:
    return [finding.fix for finding in look(plugin.CHECK, plan(**fields))]


def test_a_cpu_deployment_with_transfers_needs_the_plugin_that_is_installed_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    assert plugin_findings(mode="disagg") == []


@pytest.mark.parametrize(("allowed", "warned"), [("", True), ("other", True), ("other,dynamoctl", False)])
def test_vllm_must_be_allowed_to_load_it(monkeypatch: pytest.MonkeyPatch, allowed: str, warned: bool) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", allowed)
    for mode in ("disagg", "agg"):  # NIXL between CPU workers; LMCache's server
        assert [("VLLM_PLUGINS" in fix) for fix in plugin_findings(mode=mode)] == [True] * warned
    assert plugin_findings(engine="mocker") == []


def test_without_it_lmcache_in_process_would_give_back_wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    (finding,) = look(plugin.CHECK, plan(1, mode="agg", gpus=(0,)))
    assert finding.level is Level.ERROR
    assert "LMCache gives back wrong values" in finding.what
    (finding,) = look(plugin.CHECK, plan(1, mode="agg", gpus=(0,), lmcache={"enabled": False}))
    assert finding.level is Level.WARNING
    assert finding.what == (
        "vLLM will not load dynamoctl's plugin: each worker with NIXL compiles the model for itself,"
        " at every start"
    )


def test_a_patch_that_the_user_has_switched_off_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    own = {"DYNAMOCTL_SHARE_COMPILE_CACHE": ""}
    made = plan(1, mode="agg", gpus=(0,), lmcache={"enabled": False}, env=own)
    assert look(plugin.CHECK, made) == []


def test_an_installation_that_names_a_module_of_before_offers_no_plugin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = metadata.EntryPoint("dynamoctl", "dynamoctl.vllm_plugin:register", "vllm.general_plugins")
    monkeypatch.setattr(metadata, "entry_points", lambda **_: (old,))
    assert ["bootstrap" in fix for fix in plugin_findings(mode="disagg")] == [True]


def test_a_dynamoctl_that_is_not_installed_as_a_package_offers_no_plugin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    assert ["bootstrap" in fix for fix in plugin_findings(mode="disagg")] == [True]


def test_what_needs_the_plugin_says_that_it_will_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    assert ok(plugin.CHECK, plan(mode="disagg")) == "vLLM will load it"
    assert ok(plugin.CHECK, plan(engine="mocker")) == ""


# ---- versions -------------------------------------------------------------------------------


WHERE = {"cpu": 0, "cuda": 1}
RAN = [(tested.versions, device) for tested in SETS for device in tested.evidence]


@pytest.mark.parametrize(("versions", "device"), RAN)
def test_a_set_that_was_run_on_such_a_device_is_no_finding(versions: Mapping[str, str], device: str) -> None:
    made = plan(WHERE[device], versions=versions)
    build = {**versions, "torch": f"{versions['torch']}+cu130"}
    for found in (versions, build, {}):
        assert look(version_checks.CHECK, made, versions=found) == []
    said = version_checks.CHECK.ok(made, host(WHERE[device], versions=versions), FOLDER_MODEL)
    assert said.startswith("each is of the set ")
    assert "by dynamoctl's" in said


@pytest.mark.parametrize("device", WHERE)
def test_a_set_that_was_never_run_on_such_a_device_is_said(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {name: how for name, how in SETS[0].evidence.items() if name != device}
    monkeypatch.setattr(version_checks, "SETS", (replace(SETS[0], evidence=elsewhere), *SETS[1:]))
    made = plan(WHERE[device], versions=SETS[0].versions)
    (finding,) = look(version_checks.CHECK, made, versions=SETS[0].versions)
    assert finding.level is Level.WARNING
    assert "dynamoctl was not run with Dynamo" in finding.what


def test_a_cache_in_process_with_versions_that_it_was_not_run_with_is_said() -> None:
    versions = {**GPU_VERSIONS, "vllm": "0.99.0"}
    for mode, said in (("inproc", 2), ("mp", 1)):
        made = plan(1, versions=versions, lmcache={"mode": mode})
        found = look(version_checks.CHECK, made, versions=versions)
        assert ["in process" in one.what for one in found] == [False, True][:said]


@pytest.mark.parametrize(("versions", "device"), RAN)
def test_versions_that_were_not_are_named_against_the_nearest_set(
    versions: Mapping[str, str], device: str
) -> None:
    other = {**versions, "nixl": "9.9"}
    (finding,) = look(version_checks.CHECK, plan(WHERE[device], versions=versions), versions=other)
    named = f"nixl 9.9, not {versions['nixl']}"
    assert finding.level is Level.WARNING
    assert named in finding.what
    assert "slow copies" in finding.why


# ---- GPUs -----------------------------------------------------------------------------------


def in_use(monkeypatch: pytest.MonkeyPatch, *mib: int) -> None:
    monkeypatch.setattr(gpus, "memory_used", lambda: dict(enumerate(mib)))
    monkeypatch.setattr(gpus, "memory_by_process", lambda: {0: {4_000_000: mib[0]}} if mib[0] else {})


def gpu_memory(on: int, **fields: Any) -> list[Finding]:
    return look(gpu_checks.GPU_MEMORY, plan(on, **fields), on)


def test_a_gpu_that_somebody_else_uses_is_an_error_that_says_what_would_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_use(monkeypatch, 40_000)
    (finding,) = gpu_memory(1)
    assert finding.level is Level.ERROR
    assert finding.what == "GPU 0 has 40.6 of 79.6 GiB free, and worker-0 would take 92% of it"
    assert "process 4000000" in finding.fix
    assert finding.fix.endswith("--gpu-memory-utilization 0.49")
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
    assert [finding.level for finding in gpu_memory(2, mode="disagg")] == [Level.ERROR]


@pytest.mark.parametrize(("cuda", "wrong"), [(13000, False), (13020, False), (12080, True), (None, False)])
def test_the_driver_must_know_the_cuda_of_the_engines_torch(
    monkeypatch: pytest.MonkeyPatch, cuda: int | None, wrong: bool
) -> None:
    monkeypatch.setattr(gpus, "driver", lambda: ("570.1", cuda))
    findings = look(gpu_checks.DRIVER, plan(1), 1)
    assert [one.what for one in findings] == ["the NVIDIA driver 570.1 is for CUDA 12.8"] * wrong


def test_without_a_gpu_a_plan_for_gpus_is_an_error() -> None:
    (finding,) = look(gpu_checks.GPUS, plan(1))
    assert (finding.level, "NVML finds no" in finding.what) == (Level.ERROR, True)
    assert ok(gpu_checks.GPUS, plan(1)) == ok(gpu_checks.DRIVER, plan(1)) == ""


def test_only_the_plans_own_gpus_are_named_as_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "driver", lambda: ("580.1", 13000))
    made = plan(2, gpus="1")
    assert ok(gpu_checks.GPUS, made, on=2) == "1: NVIDIA H100 80GB HBM3"
    assert ok(gpu_checks.DRIVER, made, on=2) == "580.1"
    assert ok(gpu_checks.GPU_MEMORY, made, on=2) == "what the workers will take is free"
    assert [ok(check, plan(), on=2) for check in (gpu_checks.DRIVER, gpu_checks.GPUS)] == ["", ""]


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    (finding,) = look(gpu_checks.GPUS, plan(2, gpus="1"), on=1)
    assert finding.what == "GPU 1 is not there; this host has 0"
    assert look(gpu_checks.GPUS, plan(2, gpus="1"), on=2) == []


# ---- the machine ----------------------------------------------------------------------------


def test_a_containers_64_mib_of_shared_memory_are_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64 * 2**20, 0, 64 * 2**20))
    (finding,) = look(shared_memory.CHECK, plan())
    assert "0.06 GiB free" in finding.what
    assert "--shm-size" in finding.fix
    assert look(shared_memory.CHECK, plan(engine="mocker")) == []


def test_another_machine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(machine.CHECK, plan()) == []
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert [one.level for one in look(machine.CHECK, plan())] == [Level.ERROR]


@pytest.mark.parametrize(
    ("limit", "level"),
    [(511, Level.ERROR), (512, Level.WARNING), (4095, Level.WARNING), (4096, None), (-1, None)],
)
def test_a_low_limit_on_open_files_is_named(
    monkeypatch: pytest.MonkeyPatch, limit: int, level: Level | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    findings = look(descriptors.CHECK, plan())
    assert [finding.level for finding in findings] == [level] * (level is not None)
    assert all(f"no more than {limit} files" in finding.what for finding in findings)
    if level is None:
        allowed = "4,096" if limit == 4096 else "any number of"
        assert ok(descriptors.CHECK, plan()) == f"a process can open {allowed} files and sockets"


@pytest.mark.parametrize(
    ("available_gib", "level"), [(9.9, Level.ERROR), (14.0, Level.WARNING), (14.3, None)]
)
def test_lmcache_must_fit_into_the_memory_that_is_available(
    available_gib: float, level: Level | None
) -> None:
    made = plan(lmcache={"cpu_gb": "10GiB"})
    facts = replace(host(), memory_available_gib=available_gib)
    findings = memory.CHECK.run(made, facts, FOLDER_MODEL)
    assert [finding.level for finding in findings] == [level] * (level is not None)
    assert memory.CHECK.ok(made, facts, FOLDER_MODEL) == "LMCache takes 10 GiB of it"
    assert look(memory.CHECK, plan(lmcache={"enabled": False})) == []
    assert ok(memory.CHECK, plan(lmcache={"enabled": False})) == ""


def test_the_password_of_a_store_is_not_shown() -> None:
    made = plan(lmcache={"remote": "redis://ada:pw-5d02@h:6379"})
    assert ok(tiers.CHECK, made) == "remote redis://***@h:6379"


# ---- trials ---------------------------------------------------------------------------------


@pytest.mark.packages
def test_a_trial_that_fails_says_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_START_AGENT", "raise RuntimeError('no UCX here')")
    monkeypatch.setattr(trials, "_LOAD_KERNELS", "import os; os._exit(7)")
    disagg, in_process = plan(mode="disagg"), plan(1, mode="agg", gpus=(0,))
    (finding,) = look(trials.NIXL, disagg)
    assert finding.level is Level.ERROR
    assert finding.what == "NIXL's agent does not start: RuntimeError: no UCX here"
    (finding,) = look(trials.KERNELS, in_process)
    assert finding.level is Level.WARNING
    assert finding.what.endswith("do not load: exit 7")
    assert (look(trials.KERNELS, disagg), ok(trials.KERNELS, disagg)) == ([], "")


def test_nothing_is_tried_if_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "missing_packages", lambda _: ["nixl"])
    for trial, made in ((trials.NIXL, plan(mode="disagg")), (trials.KERNELS, plan(1, gpus=(0,)))):
        assert (look(trial, made), ok(trial, made)) == ([], "")


# ---- leftovers ------------------------------------------------------------------------------


def test_processes_without_their_supervisor_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    DeploymentDir("left").write_state(DeploymentState("left", "agg", "m", "", "start-1"))
    assert look(leftovers.CHECK, plan()) == []
    alive = {"start-1/": [identify(os.getpid())]}
    monkeypatch.setattr(leftovers, "members", alive.__getitem__)
    (finding,) = look(leftovers.CHECK, plan())
    assert (finding.level, finding.fix) == (Level.WARNING, "dynamoctl down -n left")
    assert finding.what == "the supervisor of 'left' is gone, and 1 of its processes still run"
    DeploymentDir("left").state_file.write_text("{")
    (finding,) = look(leftovers.CHECK, plan())
    assert (finding.level, "is damaged" in finding.what) == (Level.WARNING, True)


# ---- the command ----------------------------------------------------------------------------


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run(["doctor", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@of_pyproject
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
    assert f"nixl {VERSIONS['nixl']}" in found["packages"]["what"]
    assert found["versions"]["level"] == "ok"
    assert found["leftovers"]["what"] == "none"
    assert all(one.keys() == {"check", "level", "what", "why", "fix"} for one in body["findings"])


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
    assert "fix: choose another with --port" in said
    assert "`up` would refuse: 1 error" in said


def test_what_a_running_deployment_uses_is_not_held_against_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    used = Check("used", lambda *_: [Finding(Level.ERROR, "taken")], lambda *_: "", used_while_up=True)
    right = Check("right", lambda *_: [], lambda *_: "all is right")
    silent = Check("silent", lambda *_: [], lambda *_: "")
    monkeypatch.setattr(registry, "PREFLIGHT", (used, right, silent))
    monkeypatch.setattr(registry, "DOCTOR_ONLY", ())
    planned = PlanningResult(spec(), host(), FOLDER_MODEL, plan(), {})
    names: list[str] = []
    assert doctor.diagnose(planned, names.append) == [
        doctor.CheckResult("used", Finding(Level.ERROR, "taken")),
        doctor.CheckResult("right", Finding(Level.OK, "all is right")),
    ]
    assert names == ["used", "right", "silent"]
    me = identify(os.getpid())
    DeploymentDir("default").write_state(
        DeploymentState("default", "agg", "m", "", "1", "ready", supervisor=me)
    )
    assert [result.check for result in doctor.diagnose(planned, names.append)] == ["deployment", "right"]


def test_doctor_of_a_plan_that_makes_no_sense_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, body = asked(capsys, "agg", "--gpus", "0,0", "--tp", "2")
    assert (code, body["error"]["code"]) == (2, 2)


def test_doctor_names_a_models_folder_as_one_writes_it_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert model_check.shell_path("/home/ada/models/m") == "~/models/m"
    assert model_check.shell_path("/srv/models/m") == "/srv/models/m"
    assert "first start" in model_check.shell_path(None)


# ---- model ----------------------------------------------------------------------------------

ENDS = '{"eos_token_id": 2}'
NO_TOKENIZER = "has no tokenizer that Dynamo's frontend reads"


def model_findings(folder: Path, *engine_args: str, **fields: Any) -> list[str]:
    model = models.locate(str(folder))
    made = plan(model_facts=model, mode="disagg", engine_args=engine_args, **fields)
    return [
        finding.what.removeprefix(f"the model folder {folder} ")
        for finding in model_check.CHECK.run(made, host(), model)
    ]


@pytest.mark.parametrize(
    ("there", "words", "found"),
    [
        ("tokenizer.json model.safetensors", (), []),
        ("tiktoken.model pytorch_model.bin", (), []),
        ("qwen.tiktoken model.pt", (), []),
        ("model.safetensors", (), [NO_TOKENIZER]),
        ("vocab.txt model.safetensors", (), [NO_TOKENIZER]),
        ("tekken.json model.safetensors", (), [NO_TOKENIZER]),
        ("model.safetensors", ("--tokenizer", "/elsewhere"), [NO_TOKENIZER]),
        ("model.safetensors", ("--skip-tokenizer-init",), [NO_TOKENIZER]),
        ("tokenizer.json", (), ["has no weights"]),
        ("tokenizer.json", ("--load-format", "dummy"), []),
        ("tokenizer.json", ("--load_format=dummy",), []),
    ],
)
def test_a_model_folder_has_a_tokenizer_and_weights_or_needs_none(
    tmp_path: Path, there: str, words: tuple[str, ...], found: list[str]
) -> None:
    for name in ("config.json", *there.split()):
        (tmp_path / name).write_text(ENDS)
    assert model_findings(tmp_path, *words) == found


def test_dynamos_mocker_reads_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(ENDS)
    (tmp_path / "chat_template.jinja").touch()
    assert model_findings(tmp_path, engine="mocker") == [NO_TOKENIZER]


@pytest.mark.parametrize("offline", ["1", "0"])
def test_what_the_hubs_cache_lacks_is_an_error_where_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(ENDS)
    (snapshot / "tokenizer.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    model = models.locate("Qwen/Qwen3-0.6B")
    found = model_check.CHECK.run(plan(model_facts=model, mode="agg"), host(), model)
    assert [one.what for one in found] == [f"the model folder {snapshot} has no weights"] * int(offline)


def test_a_host_with_the_frontend_alone_needs_the_tokenizer_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(ENDS)
    elsewhere = {"roles": ("frontend",), "discovery": "etcd", "etcd_endpoints": ("http://10.0.0.1:2379",)}
    alone = {**elsewhere, "advertise": "10.0.0.1"}
    assert model_findings(tmp_path, **alone) == [NO_TOKENIZER]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert model_findings(tmp_path, **alone) == []


def test_weights_of_which_some_are_missing_are_named(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "m-3.safetensors"):
        (tmp_path / name).write_text(ENDS)
    index = {"weight_map": {f"layer.{i}": f"m-{i % 6}.safetensors" for i in range(12)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    lost = "m-0.safetensors, m-1.safetensors, m-2.safetensors and others"
    assert model_findings(tmp_path) == [f"lacks {lost}, which its index lists"]
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
        found = look(nats.CHECK, plan(env={"DYN_EVENT_PLANE": "nats", "NATS_SERVER": where}))
        thread.join()
    assert [why in finding.what for finding in found] == [True] * bool(why)
    assert "pw-8c31" not in str(found)


def test_nobody_needs_nats() -> None:
    assert look(nats.CHECK, plan(env={"NATS_SERVER": "nats://127.0.0.1:1"})) == []
    (finding,) = look(
        nats.CHECK, plan(env={"DYN_REQUEST_PLANE": "nats", "NATS_SERVER": "nats://127.0.0.1:1"})
    )
    assert (finding.level, "refused" in finding.what) == (Level.ERROR, True)
