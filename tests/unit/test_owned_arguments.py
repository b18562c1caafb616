"""Engine arguments that the plan depends on are refused, in every spelling; others are passed on."""

from __future__ import annotations

import re
from typing import Any

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.planner import engine_options, option_tables, owned_arguments
from dynamoctl.tested_versions import INSTALLED

from tests.unit.hosts import plan

MOCKER = {"engine": "mocker"}
DISAGG = {"mode": "disagg"}

# The arguments, with what else is asked for -> a part of the message, and a part of the hint.
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    # What puts another connector in the place of the plan's.
    ("--kv-offloading-size 20", {}, "puts vLLM's own connector in the place", "--lmcache-cpu-gb"),
    ("--kv_offloading_s=20", DISAGG, "puts vLLM's own connector in the place", "--lmcache-cpu-gb"),
    # What the plan decides, however it is spelled.
    ("--tensor-parallel 2", {}, "--tensor-parallel-size is decided", "--tp"),
    ("--tensor_parallel_size=2", {}, "--tensor-parallel-size is decided", "--tp"),
    ("-tp=2", {}, "-tp is decided", "--tp"),
    ("-t 2", {}, "-tp is decided", "--tp"),
    ("--kv-transfer-config.kv_role kv_consumer", {}, "--kv-transfer-config is decided", "--no-lmcache"),
    ("--kv_tr.kv_role=kv_consumer", DISAGG, "--kv-transfer-config is decided", "--no-lmcache"),
    ("--kv-events-config {}", {}, "--kv-events-config is decided", "--router-mode kv"),
    ("--enforce-eager --model other", {}, "--model is decided", "--model NAME"),
    ("--served-model other", {}, "--served-model-name is decided", "before the --"),
    ("--device-ids 1", {}, "--device-ids is decided", "--gpus"),
    ("--config engine.yaml", {}, "--config brings arguments from a file", "engine_args"),
    ("--no-disable-hybrid-kv-cache-manager", DISAGG, "is decided", "same cache manager"),
    # Dynamo's own.
    ("--namespace x", {}, "--namespace is decided", "--name"),
    ("--endpoint dyn://a.b.c", {}, "--endpoint is decided", "--name"),
    ("--discovery-backend etcd", {}, "--discovery-backend is decided", "--discovery before"),
    ("--disaggregation-mode=prefill", {}, "--disaggregation-mode is decided", "up disagg"),
    ("--connector lmcache", {}, "--connector is decided", "LMCache's flags"),
    ("--headless", {}, "--headless spreads a worker over hosts", "--roles"),
    ("--request-plane nats", {}, "for this worker alone", "DYN_REQUEST_PLANE"),
    ("--tcp-tls-cert-path a.pem", {}, "for this worker alone", "DYN_TCP_TLS_*"),
    ("--help", {}, "print something and end", "python -m dynamo.vllm --help"),
    ("--router-mode kv", {}, "is for the frontend", "before the --"),
    ("--router-temp 0.5", {}, "--router-temperature is for the frontend", "DYN_ROUTER_TEMPERATURE"),
    # More GPUs, or other hosts.
    ("--data-parallel-size 2", {}, "takes more GPUs than the plan gives", "--workers"),
    ("-dp=2", {}, "-dp takes more GPUs than the plan gives", "--workers"),
    ("-pp 2", {}, "-pp takes more GPUs than the plan gives", "--tp"),
    ("--pipeline_parallel 2", DISAGG, "takes more GPUs than the plan gives", "--decode and --prefill"),
    ("-pcp 2", {}, "-pcp takes more GPUs than the plan gives", "--tp"),
    ("--data-parallel-hybrid-lb", {}, "takes more GPUs than the plan gives", "--workers"),
    ("--nnodes 2", {}, "--nnodes spreads a worker", "--discovery etcd"),
    ("--distributed-executor-backend ray", {}, "spreads a worker", "--discovery etcd"),
    # A deployment that could not be verified.
    ("--embedding-worker", {}, "answers no text completion", "generate text"),
    ("--use-vllm-tokenizer", {}, "answers no text completion", "generate text"),
    ("--endpoint-types chat", {}, "answers no text completion", "completions among them"),
    ("--dyn-endpoint-types none", {}, "answers no text completion", "completions among them"),
    ("--runner pooling", {}, "answers no text completion", "generate text"),
    # Of `vllm serve` alone.
    ("--enable-auto-tool-choice", {}, "for `vllm serve`", "--dyn-tool-call-parser"),
    ("--tool-call-parser hermes", {}, "for `vllm serve`", "--dyn-tool-call-parser"),
    ("--tool_call=hermes", {}, "--tool-call-parser is for `vllm serve`", "--dyn-tool-call-parser"),
    ("--chat-template x.jinja", {}, "for `vllm serve`", "--custom-jinja-template"),
    ("--host 0.0.0.0", {}, "for `vllm serve`", "--host before the --"),
    ("--port 8000", {}, "for `vllm serve`", "--port before the --"),
    ("--api-key hunter2", {}, "for `vllm serve`", "in front of the frontend"),
    ("--max-log-len 5", {}, "for `vllm serve`", "take it out"),
    # A secret, in a spelling that hides its name.
    ("--hf-tok hunter2", {}, "for everybody to read", "[env]"),
    ("--kv-transfer-config.x.api_key hunter2", {}, "for everybody to read", "[env]"),
    # The mocker's.
    ("--model-name x", MOCKER, "--model-name is decided", "--served-model-name"),
    ("--num-work 2", MOCKER, "--num-workers is decided", "--workers"),
    ("--endpoint dyn://a.b.c", MOCKER, "--endpoint is decided", "--name"),
    ("--discovery-b etcd", MOCKER, "--discovery-backend is decided", "--discovery before"),
    ("--is-prefill-worker", MOCKER | DISAGG, "--is-prefill-worker is decided", "up disagg"),
    ("--router-mode kv", MOCKER, "is for the frontend", "before the --"),
]


@pytest.mark.parametrize(
    ("words", "fields", "message", "hint"), REFUSED, ids=[f"{w} {list(f.values())}" for w, f, _, _ in REFUSED]
)
def test_what_the_plan_depends_on_is_refused_among_the_engines_arguments(
    words: str, fields: dict[str, Any], message: str, hint: str
) -> None:
    ways: list[dict[str, Any]] = [{"engine_args": words.split()}]
    if fields.get("mode") == "disagg":
        ways += [{"decode_args": words.split()}, {"prefill_args": words.split()}]
    for way in ways:
        with pytest.raises(SpecError) as caught:
            plan(2, **fields, **way)
        assert caught.value.exit_code == 2
        assert message in caught.value.message
        assert hint in caught.value.hint
        assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("--data-parallel-size 1 -pp 1 --nnodes=1 --node-rank 0", {}),
        ("--decode-context-parallel-size 2 --enable-expert-parallel", {"tp": 2}),
        ("--endpoint-types completions,chat --runner generate --convert none", {}),
        ("--distributed-executor-backend mp --no-headless", {}),
        ("--disable-hybrid-kv-cache-manager", DISAGG),
        ("--no-disable-hybrid-kv-cache-manager", {}),
        ("--dyn-tool-call-parser hermes --dyn-reasoning-parser qwen3 --reasoning-parser qwen3", {}),
        ("--config-format hf --max_model_len=512 -O3 -cc.mode 3 --no-enable-prefix-caching", {}),
        ("--kv-offloading-backend native --cpu-offload-gb 1", {}),
        ("--speedup-ratio 5 --data-parallel-size 2", MOCKER),
    ],
)
def test_other_arguments_are_passed_on_as_they_are(words: str, fields: dict[str, Any]) -> None:
    made = plan(4, **fields, engine_args=words.split(), versions=INSTALLED)
    assert all(list(unit.argv[-len(words.split()) :]) == words.split() for unit in made.workers)


@pytest.mark.parametrize("role", ["decode", "prefill"])
def test_a_mocker_gets_the_arguments_of_its_role(role: str) -> None:
    own: dict[str, Any] = {f"{role}_args": ("--block-size", "32")}
    made = plan(mode="disagg", engine="mocker", **own)
    assert made.unit(f"{role}-0").argv[-2:] == ("--block-size", "32")


UNKNOWN = [
    ("--max-model-length 4096", {}, "dynamo.vllm does not take '--max-model-length'", "--max-model-len"),
    ("--discovery_backend=etcd", {}, "does not take '--discovery_backend'", "--discovery-backend"),
    ("--enforce-eager true", {}, "dynamo.vllm does not take 'true'", "python -m dynamo.vllm --help"),
    ("--speedup-ratio 5", {}, "dynamo.vllm does not take '--speedup-ratio'", "python -m dynamo.vllm --help"),
    ("--gpu-memory 0.5", MOCKER, "", ""),
    ("--enforce-eager", MOCKER, "dynamo.mocker does not take '--enforce-eager'", "python -m dynamo.mocker"),
]


@pytest.mark.parametrize(("words", "fields", "message", "hint"), UNKNOWN)
def test_what_the_installed_engine_does_not_take_is_refused_if_its_options_are_known(
    words: str, fields: dict[str, Any], message: str, hint: str
) -> None:
    """Another version may have other options."""
    assert plan(engine_args=words.split(), **fields, versions={**INSTALLED, "ai-dynamo": "9.0"}).workers
    if not message:
        assert plan(engine_args=words.split(), **fields, versions=INSTALLED).workers
        return
    with pytest.raises(SpecError) as caught:
        plan(engine_args=words.split(), **fields, versions=INSTALLED)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_an_option_with_its_value_in_one_word_is_two_words() -> None:
    with pytest.raises(SpecError, match="does not take '--seed 1'") as caught:
        plan(engine_args=("--seed 1",), versions=INSTALLED)
    assert "'--seed', '1'" in caught.value.hint


def test_the_tables_are_of_the_versions_that_dynamoctl_installs() -> None:
    assert option_tables.VERSIONS.items() <= dict(INSTALLED).items()


def test_each_owned_option_is_one_that_the_engine_has() -> None:
    """And those that belong together are all there."""
    vllm = {*owned_arguments._EVERY_ENGINE, *owned_arguments._OF_VLLM, *owned_arguments._OF_DISAGG}
    mocker = {*owned_arguments._EVERY_ENGINE, *owned_arguments._OF_MOCKER}
    options = set(engine_options.names("vllm").values())
    assert vllm - {engine_options.CONFIG} <= options
    assert mocker <= set(engine_options.names("mocker").values())
    # Without effect while there is one data parallel rank.
    spared = {"--data-parallel-address", "--data-parallel-rpc-port", "--data-parallel-backend"}
    kinds = re.compile(r"--(data-parallel|tcp-tls|nats-tls)-|--\w+-plane")
    assert {one for one in options if kinds.match(one)} - spared <= vllm


def test_each_hint_about_vllm_serve_is_for_an_option_of_its_own() -> None:
    names = {row.split("/")[0] for rows in option_tables.SERVE.values() for row in rows.split()}
    assert set(owned_arguments._INSTEAD) <= names


BLOCKS = [
    ("--block-size 48", {"lmcache": {"mode": "mp"}}, "256 is not a multiple of 48", "take 288"),
    ("--block_size=48", {"lmcache": {"mode": "mp"}} | DISAGG, "256 is not a multiple of 48", "take 288"),
    ("--block-size 8", {"lmcache": {"mode": "mp", "chunk_size": 40}}, "", ""),
    ("--block_size 8", {"lmcache": {"mode": "mp", "chunk_size": 40}}, "", ""),
    ("--block_si=8", {"lmcache": {"mode": "mp", "chunk_size": 40}} | DISAGG, "", ""),
    ("--block-size 48", {"lmcache": {"mode": "inproc"}}, "", ""),
    ("--block-size x", {"lmcache": {"mode": "mp"}}, "", ""),  # vLLM says so itself
    ("-dcp 2 --block-size 256", {"lmcache": {"mode": "mp"}, "tp": 2}, "512, vLLM's block size", "take 512"),
]


@pytest.mark.parametrize(("words", "fields", "message", "hint"), BLOCKS)
def test_a_chunk_of_the_cache_server_is_a_whole_number_of_the_blocks_that_are_asked_for(
    words: str, fields: dict[str, Any], message: str, hint: str
) -> None:
    """Of the workers that cache: decode workers have no LMCache."""
    roles = ("engine_args", "prefill_args") if fields.get("mode") == "disagg" else ("engine_args",)
    for role in roles:
        asked: dict[str, Any] = {**fields, role: words.split()}
        if not message:
            assert plan(4, **asked).lmcache
            continue
        with pytest.raises(SpecError) as caught:
            plan(4, **asked)
        assert message in caught.value.message
        assert hint in caught.value.hint
    if fields.get("mode") == "disagg":
        assert plan(4, **{**fields, "lmcache": {"mode": "mp"}}, decode_args=words.split()).lmcache == "mp"
