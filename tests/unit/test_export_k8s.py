"""`export k8s`: manifests that fit the operator's schema and rules, and what is refused.

The schema (tests/schemas) is a summary of the resource's definition in ai-dynamo/dynamo, written for this
project. `dynamoctl.export.dgd_rules` has the rules beside it. No cluster is asked.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/unit/test_export_k8s.py, then read the diff.
"""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dynamoctl import __version__, policies
from dynamoctl.cli import run
from dynamoctl.errors import SpecError
from dynamoctl.export import cluster, dgd_rules, kubernetes, pod_environment
from dynamoctl.planner.plan import Unit
from dynamoctl.planner.rules import RULES
from dynamoctl.tested_versions import ON_GPUS

from tests.unit.hosts import plan
from tests.unit.test_plan_golden import GOLDEN, hold

SCHEMA = json.loads((Path(__file__).parents[1] / "schemas" / "dgd-v1beta1.reduced.schema.json").read_text())
IMAGE = "--image registry.example.org/dynamo:1.4.2"

# File -> what follows `export k8s`.
CASES = {
    "agg-inproc": f"agg {IMAGE}",
    "agg-off": "agg --no-lmcache",
    "agg-mp": "agg --lmcache-mode mp --lmcache-image lmcache/standalone:v0.5.6 --lmcache-remote redis://redis:6379",
    "agg-placeholder": "agg --name qwen --runtime-version 1.4.2",
    "agg-default": "agg --name qwen",
    "agg-tp-2": f"agg --tp 2 {IMAGE} --shm 16Gi -- --max-model-len 8192",
    "agg-disk-and-store": f"agg --tp 2 {IMAGE} --lmcache-disk /cache --lmcache-disk-gb 50"
    " --lmcache-remote redis://redis.cache:6379",
    "disagg-inproc": f"disagg {IMAGE}",
    "disagg-off": "disagg --no-lmcache",
    "disagg-mp": "disagg --lmcache-mode mp",
    "disagg-2x2-tp-2": f"disagg --decode 2 --prefill 2 --tp 2 --router-mode kv {IMAGE}",
    "disagg-volume": f"disagg {IMAGE} --pvc models --model /models/llama --secret hf-token --secret other"
    " --pull-secret registry --namespace llm",
    "agg-hub-volume": "agg --no-lmcache --pvc hub --pvc-path /root/.cache/huggingface --secret hf-token",
    "agg-digest": f"agg --no-lmcache --image localhost:5000/dynamo@sha256:{'0' * 64} --runtime-version 1.4.2",
}


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its GPUs nor a file in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def exported(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["export", "k8s", *shlex.split(words)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def documents(words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(exported(words, capsys))}


def deployment(words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return documents(words, capsys)["DynamoGraphDeployment"]


def components(words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in deployment(words, capsys)["spec"]["components"]}


def main_of(component: dict[str, Any]) -> dict[str, Any]:
    (main,) = component["podTemplate"]["spec"]["containers"]
    assert main["name"] == "main"
    return dict(main)


# ---- what comes out -------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = exported(CASES[case], capsys).replace(f"dynamoctl {__version__}", "dynamoctl VERSION")
    hold(text, GOLDEN / "k8s" / f"{case}.yaml")


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {file.stem for file in (GOLDEN / "k8s").iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_it_fits_the_operators_schema_and_rules(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    body = deployment(CASES[case], capsys)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(body, SCHEMA, jsonschema.Draft202012Validator)
    assert dgd_rules.broken(body) == []


@pytest.mark.parametrize("case", CASES)
def test_each_pod_is_one(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for component in deployment(CASES[case], capsys)["spec"]["components"]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **component["podTemplate"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        spec = pod["spec"]
        mounts = {one["name"] for one in spec["containers"][0].get("volumeMounts", ())}
        assert mounts == {one["name"] for one in spec.get("volumes", ())}
        names = [one["name"] for one in spec["containers"][0].get("env", ())]
        assert len(names) == len(set(names))


def test_this_machines_gpus_do_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    words = f"disagg --decode 2 --tp 4 {IMAGE}"
    assert exported(words, capsys) == exported(f"{words} --gpus 0,1,2,3,4,5,6,7,8,9,10,11", capsys)
    made = components(words, capsys)
    assert {name: one["replicas"] for name, one in made.items()} == {"Frontend": 1, "Decode": 2, "Prefill": 1}
    limits = {name: main_of(made[name])["resources"]["limits"] for name in ("Decode", "Prefill")}
    assert limits == {"Decode": {"nvidia.com/gpu": "4"}, "Prefill": {"nvidia.com/gpu": "4"}}


def test_each_variable_of_the_planners_is_kept_or_dropped_on_purpose() -> None:
    shapes: list[dict[str, Any]] = [
        {"mode": "disagg", "lmcache": {"mode": mode}, "router_mode": "kv"} for mode in ("inproc", "mp")
    ]
    stores = {"disk": "/a", "disk_gb": 1, "remote": "redis://h:6379"}
    units: list[Unit] = [unit for shape in shapes for unit in plan(2, **shape).units]
    units += plan(2, tp=2, lmcache=stores).units
    planned = {name for unit in units if unit.role != "cache" for name in unit.env} | {"HF_HUB_OFFLINE"}
    patches = {name for name in planned if name.startswith("DYNAMOCTL_")}
    assert planned - patches <= {rule.sets for rule in RULES}
    assert not patches & pod_environment.DROPPED


@pytest.mark.parametrize("case", CASES)
def test_a_pod_gets_what_its_rule_says(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`kept`: with the plan's value; `dropped`: not at all; a changed one is the pod's or the exporter's."""
    actions = {rule.sets: rule.in_pod.action for rule in RULES}
    body = deployment(CASES[case], capsys)["spec"]
    for component in body["components"]:
        for variable in (*body.get("env", ()), *main_of(component).get("env", ())):
            action = actions.get(variable["name"], "kept")
            own = "valueFrom" in variable or variable["name"] == "DYN_ROUTER_MODE"
            assert action == "kept" or (action == "changed" and own)


def test_what_the_rules_reserve_cannot_be_set_for_an_export(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    reserved = {rule.sets for rule in RULES if rule.in_pod.reserved}
    assert {"DYN_NAMESPACE", "CUDA_VISIBLE_DEVICES", "VLLM_PORT", "ETCD_ENDPOINTS"} <= reserved
    for name in reserved:
        (tmp_path / "dynamoctl.toml").write_text(f'[env]\n{name} = "1"\n')
        assert run(["export", "k8s", "agg", "--no-lmcache"]) == 2
        assert f"{name} is the operator's to set" in capsys.readouterr().err


def test_the_users_environment_reaches_every_pod(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "dynamoctl.toml").write_text('[env]\nNCCL_DEBUG = "INFO"\nGLOO_SOCKET_IFNAME = "eth0"\n')
    shared = deployment(f"disagg {IMAGE}", capsys)["spec"]["env"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in shared
    assert {"name": "GLOO_SOCKET_IFNAME", "value": "eth0"} in shared  # the planner's own is dropped


@pytest.mark.parametrize(
    ("env", "error", "homes"),
    [
        ("", "", {"HF_HOME": "/models"}),
        ('HF_HOME = "/models/hub"', "", {"HF_HOME": "/models/hub"}),
        ('HF_HUB_CACHE = "/models/hub"', "", {"HF_HUB_CACHE": "/models/hub", "HF_HOME": "/models"}),
        ('HF_HOME = "/data/hub"', "env: HF_HOME is /data/hub, but the volume of --pvc is mounted at", {}),
        ('HF_HUB_CACHE = "/modelsx"', "env: HF_HUB_CACHE is /modelsx", {}),
    ],
)
def test_the_hubs_models_are_on_the_volume(
    env: str, error: str, homes: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each pod has one HF_HOME: the user's own, if it is on the volume."""
    (tmp_path / "dynamoctl.toml").write_text(f"[env]\n{env}\n")
    words = f"disagg --model Qwen/Qwen3-0.6B --pvc hub {IMAGE}"
    if error:
        assert run(["export", "k8s", *words.split()]) == 2
        assert error in capsys.readouterr().err
        return
    body = deployment(words, capsys)["spec"]
    for component in body["components"]:
        pairs = [*body["env"], *main_of(component).get("env", ())]
        found = [(one["name"], one["value"]) for one in pairs if one["name"].startswith("HF_H")]
        assert sorted(found) == sorted(homes.items())


def test_the_server_of_the_operator_gets_lmcaches_variables(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = 'LMCACHE_LOG_LEVEL = "debug"\nLMCACHE_MQ_TIMEOUT = "60"\nLMCACHE_CACHE_POLICY = "noop"'
    ignored = 'LMCACHE_MIN_RETRIEVE_TOKENS = "512"'
    (tmp_path / "dynamoctl.toml").write_text(f"[lmcache.env]\n{settings}\n{ignored}\n")
    assert run(["export", "k8s", "agg", "--lmcache-mode", "mp"]) == 0
    shown = capsys.readouterr()
    server = next(yaml.safe_load_all(shown.out))["spec"]
    assert (server["logLevel"], server["eviction"]) == ("DEBUG", {"policy": "noop"})
    found = {one["name"]: one["value"] for one in server["env"]}
    assert found["LMCACHE_MQ_TIMEOUT"] == "60"
    assert found["LMCACHE_TRACK_USAGE"] == "false"  # a rule
    assert not {"LMCACHE_CACHE_POLICY", "LMCACHE_MIN_RETRIEVE_TOKENS", "LMCACHE_LOG_LEVEL"} & found.keys()
    assert "left out: LMCACHE_MIN_RETRIEVE_TOKENS: LMCache's server does not read it" in shown.err
    (tmp_path / "dynamoctl.toml").write_text('[lmcache.env]\nLMCACHE_LOG_LEVEL = "chatty"\n')
    assert run(["export", "k8s", "agg", "--lmcache-mode", "mp"]) == 2
    assert "LMCache's operator knows DEBUG, INFO, WARNING, ERROR, not CHATTY" in capsys.readouterr().err


def test_lmcaches_variables_reach_the_workers_with_lmcache_in_process(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "dynamoctl.toml").write_text('[lmcache.env]\nLMCACHE_MIN_RETRIEVE_TOKENS = "512"\n')
    made = components(f"disagg {IMAGE}", capsys)
    with_it = {
        name
        for name, component in made.items()
        if {"name": "LMCACHE_MIN_RETRIEVE_TOKENS", "value": "512"} in main_of(component).get("env", ())
    }
    assert with_it == {"Prefill"}


@pytest.mark.parametrize(("mode", "name"), [("agg", "Worker"), ("disagg", "Prefill")])
def test_the_workers_shell_puts_the_operators_connector_where_ours_would_be(
    mode: str, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The command of the pod is run, with a `python3` that prints its arguments."""
    made = documents(f"{mode} --lmcache-mode mp", capsys)
    (worker,) = (c for c in made["DynamoGraphDeployment"]["spec"]["components"] if c["name"] == name)
    main, pod = main_of(worker), worker["podTemplate"]["spec"]
    (volume,) = pod["volumes"]
    assert volume["configMap"]["name"] == f"{made['LMCacheEngine']['metadata']['name']}-connection"
    assert (pod["hostIPC"], worker["sharedMemorySize"]) == (True, "0")

    said = {
        "kv_connector": "LMCacheMPConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"a": "b"},
    }
    (tmp_path / "kv-transfer-config.json").write_text(json.dumps(said, indent=2))
    (tmp_path / "python3").write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
    (tmp_path / "python3").chmod(0o755)
    mounted = main["volumeMounts"][0]["mountPath"]
    command = [word.replace(mounted, str(tmp_path)) for word in main["command"]]
    done = subprocess.run(
        [*command, *main["args"]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    words = done.stdout.split("\0")[:-1]
    assert words[:2] == ["-m", "dynamo.vllm"]
    assert words[2:-2] == main["args"]
    assert words[-2] == "--kv-transfer-config"
    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    both = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [said, nixl]},
        "kv_load_failure_policy": "recompute",
    }
    assert json.loads(words[-1]) == (said if mode == "agg" else both)


def test_a_placeholder_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "k8s", "agg", "--runtime-version", "1.4.2"]) == 0
    shown = capsys.readouterr()
    assert f"image: {cluster.PLACEHOLDER}:1.4.2" in shown.out
    assert "the image is a placeholder" in shown.err
    assert run(["export", "k8s", "agg", "--no-lmcache", "--port", "9000"]) == 0
    shown = capsys.readouterr()
    assert f"image: {cluster.IMAGE}:{ON_GPUS['ai-dynamo']}" in shown.out
    assert shown.err.startswith("left out: port 9000")


@pytest.mark.parametrize(
    ("image", "named", "dynamo"),
    [
        (None, None, ON_GPUS["ai-dynamo"]),
        ("own:1.4.2", None, "1.4.2"),
        ("own:v1.4.2-cuda13", None, "1.4.2"),
        ("own:1.6.1", None, "1.6.1"),
        ("own:latest", "1.4.2", "1.4.2"),
        (f"host:5000/own@sha256:{'0' * 64}", "1.6.1", "1.6.1"),
        ("own:9.9.9", None, ON_GPUS["ai-dynamo"]),
    ],
)
def test_a_plan_is_for_the_versions_in_the_image(image: str | None, named: str | None, dynamo: str) -> None:
    assert cluster.Cluster(image=image, runtime_version=named).versions["ai-dynamo"] == dynamo


def test_a_service_that_is_called_vllm_gives_no_worker_its_port(capsys: pytest.CaptureFixture[str]) -> None:
    """Kubernetes would set VLLM_PORT=tcp://..., with which vLLM exits."""
    (graph,) = documents("disagg --no-lmcache -n vllm", capsys).values()
    pods = {one["type"]: one["podTemplate"]["spec"] for one in graph["spec"]["components"]}
    assert {kind: pod.get("enableServiceLinks") for kind, pod in pods.items()} == {
        "frontend": None,
        "decode": False,
        "prefill": False,
    }


def test_a_drain_time_of_ones_own_is_told_to_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "k8s", "agg", "--no-lmcache", "--drain", "60"]) == 0
    assert "left out: drain 60 s" in capsys.readouterr().err
    assert run(["export", "k8s", "agg", "--no-lmcache", "--drain", f"{policies.DRAIN_S:g}"]) == 0
    assert "left out" not in capsys.readouterr().err


def test_json_and_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = exported(f"agg {IMAGE}", capsys)
    assert run(["export", "k8s", "agg", *IMAGE.split(), "--json", "-o", "a.yaml"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body == {
        "schema": "dynamoctl/export/v1",
        "ok": True,
        "program": "k8s",
        "format": "manifest",
        "content": text,
        "path": "a.yaml",
        "notes": [],
    }
    assert (tmp_path / "a.yaml").read_text() == text


# ---- what is refused ------------------------------------------------------------------------

REFUSED = {
    "a malformed image": ("agg --image Registry/Name:1.4.2", "is not an image name"),
    "an image without a tag": ("agg --image registry.io/dynamo", "no tag says no version"),
    "the tag latest": ("agg --image dynamo:latest", "the tag 'latest' says no version"),
    "a tag that is a commit": ("agg --image dynamo:0fddc01b", "says no version"),
    "a digest": (f"agg --image dynamo@sha256:{'a' * 64}", "a digest says no version"),
    "half a version": ("agg --image dynamo:main --runtime-version 1.4", "MAJOR.MINOR.PATCH"),
    "a namespace that cannot be": ("agg --namespace Prod_1", "--namespace: 'Prod_1'"),
    "a secret's value": ("agg --secret HF_TOKEN=hf_abc", "a secret's value"),
    "a Secret's name that cannot be": ("agg --secret My_Secret", "--secret: 'My_Secret'"),
    "a claim's name that cannot be": ("agg --pvc Models/", "--pvc: 'Models/'"),
    "a relative path for the volume": ("agg --pvc m --pvc-path models", "is not an absolute path"),
    "a volume over the whole image": ("agg --pvc m --pvc-path /", "would hide the whole image"),
    "a unit that Kubernetes does not know": ("agg --shm 16GB", "is not a Kubernetes quantity"),
    "shared memory below 0": ("agg --shm=-1Gi", "is not a Kubernetes quantity"),
    "a folder without a volume": ("agg --model /data/llama", "is a folder, and a pod has none"),
    "a folder beside the volume": ("agg --pvc m --model /data/llama", "is not below /models"),
    "the volume as the model": ("agg --pvc m --model /models", "is not below /models"),
    "a folder above the volume": ("agg --pvc m --model /models/../data", "is not below /models"),
    "a relative folder": ("agg --model ./llama", "is on this machine alone"),
    "the built-in model": ("agg --model smollm2-135m-instruct", "is on this machine alone"),
    "the CPU": ("agg --device cpu", "a manifest is for them"),
    "the mocker": ("agg --engine mocker", "the mocker is for trying"),
    "a shared GPU": ("disagg --gpus 0,0", "cannot share a GPU"),
    "pipeline parallelism": ("agg -- --pipeline-parallel-size 2", "more GPUs than the plan gives"),
    "data parallelism": ("agg -- --data-parallel-size=2", "more GPUs than the plan gives"),
    "a password in an argument": ("agg -- --revision redis://u:pw@h", "contain a password"),
    "memory of this machine": ("agg --lmcache-cpu-gb auto", "measured on this machine"),
    "a disk of this machine's GPUs": ("agg --lmcache-gds /nvme", "reach directly"),
    "a disk for the operator's server": (
        "agg --lmcache-mode mp --lmcache-disk /d --lmcache-disk-gb 5",
        "belongs to LMCache's operator",
    ),
    "a store with a password": (
        "agg --lmcache-remote redis://u:pw@redis:6379",
        "would stand in the manifest",
    ),
    "a store with a password (mp)": (
        "agg --lmcache-mode mp --lmcache-remote redis://u:pw@redis:6379",
        "authSecretRef",
    ),
    "a store on this machine": ("agg --lmcache-remote redis://127.0.0.1:6379", "is on this machine"),
    "a store in a folder": ("agg --lmcache-remote fs://localhost:0/data", "is on this machine"),
    "a store that the operator has not": (
        "agg --lmcache-mode mp --lmcache-remote valkey://v:6379",
        "takes a Redis",
    ),
    "a digest for LMCache's server": (
        f"agg --lmcache-mode mp --lmcache-image lmcache/standalone@sha256:{'a' * 64}",
        "takes none",
    ),
    "chunks that are not whole blocks": (
        "agg --lmcache-mode mp --lmcache-chunk-size 100",
        "not a multiple of 16",
    ),
    "a name that no Service can have": ("agg --name 7b", "must begin with a letter"),
    "what the plan decides": ("agg -- --kv-transfer-config {}", "decided by the plan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, why = REFUSED[case]
    assert run(["export", "k8s", *shlex.split(words)]) == 2
    shown = capsys.readouterr()
    assert why in " ".join(shown.err.split())
    assert "\n  " in shown.err  # and what to do
    assert shown.out == ""
    assert "pw@" not in shown.err


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("HF_TOKEN", "hf_abc", "HF_TOKEN is a secret"),
        ("HTTPS_PROXY", "http://u:pw@proxy", "HTTPS_PROXY is a secret"),
        ("DYN_NAMESPACE", "mine", "the operator's to set"),
        ("DYN_PARENT_DGD_K8S_NAME", "mine", "the operator's to set"),
        ("CUDA_VISIBLE_DEVICES", "1", "follows from the pod"),
        ("VLLM_NIXL_SIDE_CHANNEL_PORT", "5600", "follows from the pod"),
    ],
)
def test_refused_in_the_environment(
    name: str, value: str, why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "dynamoctl.toml").write_text(f'[env]\n{name} = "{value}"\n')
    assert run(["export", "k8s", "agg"]) == 2
    shown = capsys.readouterr().err
    assert why in shown
    assert value not in shown.replace(name, "")


def test_a_secret_of_the_callers_environment_does_not_leak(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert "hf_abc" not in exported(f"agg {IMAGE}", capsys)
    monkeypatch.setenv("LMCACHE_REMOTE_URL", "redis://u:pw@redis:6379")
    assert run(["export", "k8s", "agg", *IMAGE.split()]) == 2
    assert "pw@" not in capsys.readouterr().err


# ---- the operator's rules, each broken by hand ----------------------------------------------

Change = Callable[[dict[str, Any]], object]


def worker(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["spec"]["components"][-1]
    return found


def argument_of(body: dict[str, Any], name: str, value: str | None) -> None:
    arguments = main_of(worker(body))["args"]
    at = arguments.index(name) if name in arguments else len(arguments)
    arguments[at : at + 2] = [name, value] if value is not None else []


BROKEN: dict[str, tuple[Change, str]] = {
    "name": (lambda b: b["metadata"].update(name="Upper"), "not a resource name"),
    "digit": (lambda b: b["metadata"].update(name="7b"), "begin with a letter"),
    "long name": (lambda b: b["metadata"].update(name="x" * 40), "45 are allowed"),
    "restart": (lambda b: b["spec"].update(restart={"id": "1"}), "must be unset"),
    "experimental": (lambda b: b["spec"].update(experimental={}), "may change"),
    "no component": (lambda b: b["spec"].update(components=[]), "1 to 25"),
    "many": (lambda b: b["spec"].update(components=b["spec"]["components"] * 13), "1 to 25"),
    "twice": (lambda b: worker(b).update(name="FRONTEND"), "the same name"),
    "epp": (lambda b: [c.update(type="epp") for c in b["spec"]["components"]], "more than one of type epp"),
    "component name": (lambda b: worker(b).update(name="a_b"), "inner hyphens"),
    "type": (lambda b: worker(b).update(type="agg"), "none of"),
    "replicas": (lambda b: worker(b).update(replicas=-1), "at least 0"),
    "minAvailable": (lambda b: worker(b).update(minAvailable=2), "more than the 1 replicas"),
    "eppConfig": (lambda b: worker(b).update(eppConfig={}), "type epp alone"),
    "shm": (lambda b: worker(b).update(sharedMemorySize="-1Gi"), "quantity"),
    "main": (
        lambda b: main_of(worker(b)) and worker(b)["podTemplate"]["spec"].update(containers=[]),
        "`main`",
    ),
    "tag": (lambda b: worker(b)["podTemplate"]["spec"]["containers"][0].update(image="a:b"), "needed"),
    "version": (lambda b: worker(b).update(runtimeVersionOverride="1.4"), "MAJOR.MINOR.PATCH"),
    "connector": (lambda b: argument_of(b, "--connector", "lmcache"), "ends where it is given"),
    "transfer": (lambda b: argument_of(b, "--kv-transfer-config", None), "does not start"),
    "gpus": (lambda b: main_of(worker(b))["resources"]["limits"].clear(), "number of GPUs"),
    "ranks": (lambda b: argument_of(b, "--tensor-parallel-size", "4"), "1 GPUs for 4 ranks"),
    "side channel": (lambda b: main_of(worker(b))["env"].clear(), "inside MultiConnector"),
    "literal secret": (
        lambda b: main_of(worker(b))["env"].append({"name": "HF_TOKEN", "value": "x"}),
        "secret",
    ),
    "DYN_CONNECTOR": (
        lambda b: main_of(worker(b))["env"].append({"name": "DYN_CONNECTOR", "value": ""}),
        "exits with an error if the variable is set",
    ),
    "no command": (
        lambda b: worker(b)["podTemplate"]["spec"]["containers"][0].pop("command"),
        "needs both",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_told(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    body = copy.deepcopy(deployment(f"disagg {IMAGE}", capsys))
    change, why = BROKEN[rule]
    change(body)
    assert any(why in problem for problem in dgd_rules.broken(body)), dgd_rules.broken(body)


def test_decode_publishes_no_events(capsys: pytest.CaptureFixture[str]) -> None:
    made = components(f"disagg --router-mode kv {IMAGE}", capsys)
    assert "--kv-events-config" in main_of(made["Prefill"])["args"]
    assert "--kv-events-config" not in main_of(made["Decode"])["args"]
    body = deployment(f"disagg {IMAGE}", capsys)
    decode = next(one for one in body["spec"]["components"] if one["type"] == "decode")
    main_of(decode)["args"].extend(["--kv-events-config", "{}"])
    assert any("publishes no KV events" in problem for problem in dgd_rules.broken(body))


def test_what_breaks_a_rule_is_not_exported() -> None:
    where = cluster.Cluster(image="dynamo:1.4.2")
    made = plan(1, name="x" * 32, lmcache={"enabled": False})
    assert kubernetes.manifest(made, where, {})
    with pytest.raises(SpecError, match="45 are allowed"):
        kubernetes.manifest(type(made)(**{**vars(made), "name": "x" * 40}), where, {})
