"""What people name as a model, and what the files of its folder mean to Dynamo's frontend."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.checks import model as model_check
from dynamoctl.checks.base import Level
from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.facts import ModelFacts
from dynamoctl.host import hub, model_files, models

from tests.unit.hosts import host, plan


def write(folder: Path, **files: Any) -> Path:
    """`config_json={...}` is config.json with this object; a string is written as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        text = body if isinstance(body, str) else json.dumps(body)
        (folder / ".".join(name.rsplit("_", 1))).write_text(text)
    return folder


# ---- the end of a text ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"config_json": {"eos_token_id": 2}}, True),
        ({"generation_config_json": {"eos_token_id": [1, 2]}}, True),
        ({"config_json": {"text_config": {"eos_token_id": 0}}}, True),
        ({"tokenizer_config_json": {"eos_token": "</s>"}}, True),
        ({"special_tokens_map_json": {"eos_token": {"content": "</s>"}}}, True),
        ({"config_json": {"eos_token_id": None}}, False),
        ({"config_json": {"bos_token_id": 1}, "tokenizer_config_json": "not JSON"}, False),
        ({}, False),
    ],
)
def test_a_texts_end_is_found_where_dynamo_looks_for_it(
    tmp_path: Path, files: dict[str, Any], ends: bool
) -> None:
    assert model_files.says_where_texts_end(write(tmp_path, **files)) is ends


def test_a_folder_that_does_not_say_where_texts_end_would_never_be_listed(tmp_path: Path) -> None:
    write(tmp_path, config_json={}, tokenizer_json={}, model_safetensors="")
    model = models.locate(str(tmp_path))
    (found,) = model_check.CHECK.run(plan(model_facts=model), host(), model)
    assert found.what.endswith("does not say which token ends a text")
    assert "eos_token_id" in found.fix


# ---- the chat template ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "chats"),
    [
        ({"chat_template_jinja": "x"}, True),
        ({"chat_template_json": {"chat_template": "x"}}, True),
        ({"tokenizer_config_json": {"chat_template": [{"name": "default", "template": "x"}]}}, True),
        ({"tokenizer_config_json": {"eos_token": "</s>"}}, False),
        ({}, False),
    ],
)
def test_a_chat_template_is_found_where_dynamo_looks_for_it(
    tmp_path: Path, files: dict[str, Any], chats: bool
) -> None:
    assert models.locate(str(write(tmp_path, **files))).chat is chats


BASE = ModelFacts("/models/base", "base", folder="/models/base", chat=False)


@pytest.mark.parametrize(
    ("words", "served"),
    [
        ((), "--endpoint-types completions"),
        (("--endpoint-types", "chat,completions"), "--endpoint-types chat,completions"),
        (("--custom-jinja-template=/t.jinja",), "--custom-jinja-template=/t.jinja"),
    ],
)
def test_a_base_model_is_served_for_completions_alone(words: tuple[str, ...], served: str) -> None:
    for unit in plan(2, mode="disagg", model_facts=BASE, engine_args=words).workers:
        command = " ".join(unit.argv)
        assert command.count("--endpoint-types") == served.startswith("--endpoint-types")
        assert served in command


def test_a_model_with_a_template_and_one_that_is_not_here_are_served_as_dynamo_does() -> None:
    assert "--endpoint-types" not in plan(1).unit("worker-0").argv


def test_a_snapshot_that_is_not_whole_may_have_a_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = write(tmp_path / "models--org--m" / "snapshots" / "abc", config_json={})
    assert models.locate("org/m").chat
    write(snapshot, tokenizer_config_json={})
    assert not models.locate("org/m").chat


def test_the_mocker_needs_a_template(tmp_path: Path) -> None:
    write(tmp_path, config_json={"eos_token_id": 2}, tokenizer_json={})
    model = models.locate(str(tmp_path))
    (found,) = model_check.CHECK.run(plan(model_facts=model, engine="mocker"), host(), model)
    assert "has no chat template" in found.what


RSPLIT = "{{ messages[-1].content.rsplit('</think>', 1) | last }}{{ loop.index }}"


@pytest.mark.parametrize(
    ("files", "methods"),
    [
        ({"chat_template_jinja": RSPLIT}, ["rsplit"]),
        (
            {"chat_template_json": {"chat_template": "{{ x.partition (':') }}{{ x.index('a') }}"}},
            ["index", "partition"],
        ),
        ({"tokenizer_config_json": {"chat_template": [{"name": "default", "template": RSPLIT}]}}, ["rsplit"]),
        ({"chat_template_jinja": "{{ x.split(':')[-1].strip() }}{{ loop.index }}"}, []),
        ({"tokenizer_config_json": {"chat_template": [1, {"template": None}]}}, []),
        ({}, []),
    ],
)
def test_methods_that_dynamos_templates_lack_are_found(
    tmp_path: Path, files: dict[str, Any], methods: list[str]
) -> None:
    assert model_files.unknown_methods(write(tmp_path, **files)) == methods


def test_a_template_that_dynamo_cannot_render_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, config_json={"eos_token_id": 2}, tokenizer_json={}, model_safetensors="")
    write(tmp_path, chat_template_jinja=RSPLIT)
    model = models.locate(str(tmp_path))
    (found,) = model_check.CHECK.run(plan(model_facts=model), host(), model)
    assert found.level is Level.WARNING
    assert ".rsplit()" in found.what
    assert "--custom-jinja-template" in found.fix
    own = plan(model_facts=model, engine_args=("--custom-jinja-template", "/t.jinja"))
    assert all(one.level is Level.OK for one in model_check.CHECK.run(own, host(), model))


# ---- what is not a model --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "what", "fix"),
    [
        (
            {"adapter_config_json": {"base_model_name_or_path": "Qwen/Qwen3-0.6B"}},
            "it is a LoRA adapter of Qwen/Qwen3-0.6B",
            "merge",
        ),
        ({"adapter_config_json": "[]"}, "it is a LoRA adapter", "merge"),
        ({"q4_gguf": ""}, "it holds a GGUF file", "safetensors"),
        ({"params_json": {}, "tekken_json": {}}, "Mistral's own format", "Hugging Face format"),
        ({}, "it has no config.json", "downloaded or saved"),
    ],
)
def test_a_folder_that_is_no_model_says_what_it_is(
    tmp_path: Path, files: dict[str, Any], what: str, fix: str
) -> None:
    model = models.locate(str(write(tmp_path, **files)))
    with pytest.raises(PreflightError) as caught:
        models.require(model, os.environ)
    assert what in caught.value.message
    assert fix in caught.value.hint


@pytest.mark.parametrize(("name", "fix"), [("m.gguf", "vLLM reads no GGUF"), ("config.json", "the folder")])
def test_a_file_is_no_model_folder(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(PreflightError, match="is a file") as caught:
        models.require(models.locate(str(tmp_path / name)), os.environ)
    assert fix in caught.value.hint


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("s3://bucket/llama", "download it"),
        ("gs://bucket/llama", "download it"),
        ("hf://Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B/tree/main", "name it as Qwen/Qwen3-0.6B"),
        ("https://example.org/model", "download it"),
    ],
)
def test_a_url_is_no_model(url: str, fix: str) -> None:
    with pytest.raises(SpecError, match="is a URL") as caught:
        models.locate(url)
    assert fix in caught.value.hint


def test_a_gguf_of_a_hub_model_is_named() -> None:
    with pytest.raises(PreflightError, match="names a GGUF file of a hub model"):
        models.require(models.locate("Qwen/Qwen3-0.6B-GGUF:Q4_K_M"), os.environ)
    with pytest.raises(PreflightError, match="there is no model folder"):
        models.require(models.locate("/models/odd:name"), os.environ)


# ---- what vLLM finds and Dynamo does not ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "below"), [("HUGGINGFACE_HUB_CACHE", ""), ("XDG_CACHE_HOME", "huggingface/hub")]
)
def test_a_model_in_a_cache_that_dynamo_does_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, below: str
) -> None:
    cache = tmp_path / "cache" / below
    write(cache / "models--org--m" / "snapshots" / "abc", config_json={})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv(name, str(tmp_path / "cache"))
    with pytest.raises(PreflightError, match="not in the local hub cache") as caught:
        models.require(models.locate("org/m"), os.environ)
    assert f"set HF_HUB_CACHE={cache}" in caught.value.hint


@pytest.mark.parametrize("where", ["file", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN"])
def test_a_login_that_dynamo_does_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(hub, "status", lambda *_: 401)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    if where == "file":
        (tmp_path / "token").write_text("hf_x")
    else:
        monkeypatch.setenv(where, "hf_x")
    with pytest.raises(PreflightError, match="refuses access") as caught:
        models.require(models.locate("org/gated"), os.environ)
    assert ("hf auth token" in caught.value.hint) is (where != "HF_TOKEN")
