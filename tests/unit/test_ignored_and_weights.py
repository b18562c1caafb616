"""Checks of variables that nobody reads, and of weights that fit nowhere."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl.checks import ignored, weights
from dynamoctl.facts import ModelFacts

from tests.unit.hosts import HUB_MODEL, host, plan

# ---- variables ------------------------------------------------------------------------------


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vLLM that reads two variables and takes one argument."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "envs.py").write_text(
        'environment_variables: dict[str, Any] = {"VLLM_LOGGING_LEVEL": 1, "VLLM_PORT": 2, **OTHERS}\n'
    )
    (tmp_path / "engine" / "arg_utils.py").write_text("class EngineArgs:\n    attention_backend: str = 1\n")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(util, "find_spec", lambda name: found if name == "vllm" else None)
    return tmp_path


def said(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], **fields: Any) -> list[tuple[str, str]]:
    monkeypatch.setattr("os.environ", environ)
    found = ignored.CHECK.run(plan(2, **fields), host(2), HUB_MODEL)
    return [(finding.what, finding.fix) for finding in found]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("VLLM_ATTENTION_BACKEND", "-- --attention-backend VALUE"),
        ("VLLM_LOGGING_LEVL", "did you mean VLLM_LOGGING_LEVEL?"),
        ("VLLM_USE_V1", "unset it"),
    ],
)
def test_a_variable_that_vllm_does_not_read(
    vllm: Path, monkeypatch: pytest.MonkeyPatch, name: str, fix: str
) -> None:
    ((what, how),) = said(monkeypatch, {name: "x"})
    assert what == f"vLLM does not read {name}: it does nothing"
    assert fix in how
    ((what, _),) = said(monkeypatch, {}, env={name: "x"})
    assert name in what


def test_what_vllm_reads_and_what_kubernetes_sets_beside_a_service_is_no_finding(
    vllm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = {
        "VLLM_PORT": "tcp://10.0.0.5:8000",
        "VLLM_SERVICE_HOST": "10.0.0.5",
        "VLLM_SERVICE_PORT_HTTP": "8000",
        "VLLM_PORT_8000_TCP_ADDR": "10.0.0.5",
        "VLLM_QWEN_PORT": "tcp://10.0.0.5:8000",
    }
    assert said(monkeypatch, {"VLLM_LOGGING_LEVEL": "INFO", "PATH": "/bin", **links}) == []
    assert said(monkeypatch, {"VLLM_NEVER_HEARD_OF": "1"}, engine="mocker") == []


def test_without_vllm_nobody_knows_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _name: None)
    assert said(monkeypatch, {"VLLM_NEVER_HEARD_OF": "1"}) == []


@pytest.mark.packages
def test_the_installed_vllm_names_its_variables_and_arguments() -> None:
    known = ignored._dictionary_keys("envs.py", "environment_variables")
    assert {"VLLM_PORT", "VLLM_LOGGING_LEVEL", "VLLM_API_KEY"} <= known
    assert "attention_backend" in ignored._fields("engine/arg_utils.py", "EngineArgs")


@pytest.mark.parametrize(
    ("environ", "fields", "found"),
    [
        ({"DYN_HTTP_PORT": "9000", "DYN_HTTP_HOST": "0.0.0.0"}, {}, ["--host 0.0.0.0", "--port 9000"]),
        ({"DYN_HTTP_PORT": "8000"}, {}, []),
        ({"DYN_MIGRATION_LIMIT": "0"}, {"workers": 2}, ["--migration-limit 0"]),
        ({"DYN_MIGRATION_LIMIT": "0"}, {}, ["--migration-limit 0"]),
        ({"DYN_MIGRATION_LIMIT": "3"}, {}, []),
    ],
)
def test_a_variable_of_dynamo_that_the_plan_overrides(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], fields: dict[str, Any], found: list[str]
) -> None:
    fixes = [fix for _, fix in said(monkeypatch, environ, **fields)]
    assert [fix.rpartition(": ")[2] for fix in fixes] == found


def test_a_key_that_no_client_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ((what, fix),) = said(monkeypatch, {"VLLM_API_KEY": "sk-secret"})
    assert what.startswith("VLLM_API_KEY protects nothing here")
    assert "sk-secret" not in what + fix


# ---- weights --------------------------------------------------------------------------------


def fits(weights_gib: float | None, on: int = 8, **fields: Any) -> list[str]:
    model = ModelFacts("/m", "m", folder="/m", weights_gib=weights_gib)
    found = weights.CHECK.run(plan(on, model_facts=model, **fields), host(on), model)
    return [finding.fix for finding in found]


@pytest.mark.parametrize(
    ("weights_gib", "fields", "tp"),
    [
        (None, {}, None),
        (70, {}, None),
        (140, {}, 4),
        (140, {"tp": 2}, None),
        (200, {"mode": "disagg"}, 4),
        (40, {"workers": 2, "gpus": (0, 0)}, 2),
        (70, {"engine_args": ("--gpu-memory-utilization", "0.5")}, 2),
        (140, {"engine_args": ("--quantization", "fp8")}, None),
        (140, {"engine_args": ("--cpu-offload-gb=80",)}, None),
        (140, {"engine": "mocker"}, None),
    ],
)
def test_a_ranks_part_of_the_weights_fits_into_its_share_of_a_gpu(
    weights_gib: float | None, fields: dict[str, Any], tp: int | None
) -> None:
    found = fits(weights_gib, **fields)
    assert len(found) == (tp is not None)
    assert all(f"(--tp {tp})" in fix for fix in found)


def test_weights_that_no_number_of_gpus_holds() -> None:
    (fix,) = fits(5000)
    assert fix == "take a smaller or quantized model"


def test_a_hosts_memory_holds_the_weights_of_all_workers() -> None:
    assert fits(100, on=0) == []
    assert fits(100, on=0, workers=3) == ["take a smaller or quantized model"]
