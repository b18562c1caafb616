"""Whether workers registered the same copy of a model, and what is said of those that did not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dynamoctl.monitoring.model_cards import ModelCard, disagreements, registered

SUMS = {"config.json": "aaaaaaaa11", "tokenizer.json": "bbbbbbbb22", "chat_template.jinja": "cccccccc33"}
NAMES = {"1": "worker-0", "2": "worker-1"}


def entries(
    instance: int,
    *,
    component: str = "backend",
    model: str = "qwen",
    path: str | None = "/models/qwen",
    length: int = 8192,
    block: int = 16,
    host: str = "10.0.0.1",
    **sums: str,
) -> tuple[str, str]:
    """The entries of a worker's card and of its instance, as Dynamo 1.6 writes them."""

    def file(name: str) -> dict[str, str]:
        checksum = sums.get(name.partition(".")[0], SUMS[name])
        return {"path": f"http://{host}:1/v1/metadata/{instance}/{name}", "checksum": f"blake3:{checksum}"}

    where = {"namespace": "n", "component": component, "endpoint": "generate", "instance_id": instance}
    card: dict[str, Any] = {
        "display_name": model,
        "model_info": {"hf_config_json": file("config.json")},
        "tokenizer": {"hf_tokenizer_json": file("tokenizer.json")},
        "chat_template_file": {"hf_chat_template": {"file": file("chat_template.jinja")}},
        "kv_cache_block_size": block,
        "runtime_config": {"context_length": length},
    }
    if path is not None:
        card["source_path"] = path
    transport = {"tcp": f"{host}:{4000 + instance}/{instance:x}/n/{component}/generate"}
    return (
        json.dumps({"type": "Model", **where, "card_json": card}),
        json.dumps({"type": "Endpoint", **where, "transport": transport}),
    )


def cards(*pairs: tuple[str, str]) -> list[ModelCard]:
    return registered([card for card, _ in pairs], [instance for _, instance in pairs])


def test_workers_with_the_same_model_agree() -> None:
    assert disagreements(cards(entries(1), entries(2, host="10.0.0.2")), NAMES) == []
    assert disagreements(cards(entries(1)), NAMES) == []
    assert disagreements([], {}) == []


def test_another_tokenizer_is_named_with_who_has_it() -> None:
    two = cards(entries(1), entries(2, host="10.0.0.2", tokenizer="dddddddd44"), entries(3))
    assert disagreements(two, {"1": "worker-0"}) == [
        "workers registered different copies of qwen: tokenizer.json is"
        " bbbbbbbb (backend at 10.0.0.1:4003, worker-0), dddddddd (backend at 10.0.0.2:4002)"
    ]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"config": "dddddddd44"}, "config.json is aaaaaaaa (worker-0), dddddddd (worker-1)"),
        ({"chat_template": "dddddddd44"}, "chat_template.jinja is cccccccc (worker-0), dddddddd (worker-1)"),
        (
            {"path": "/home/me/qwen"},
            "the model's path is /models/qwen (worker-0), /home/me/qwen (worker-1)",
        ),
        ({"length": 4096}, "the context length is 8192 (worker-0), 4096 (worker-1)"),
        ({"block": 128}, "the KV cache's block size is 16 (worker-0), 128 (worker-1)"),
    ],
)
def test_what_the_frontend_compares_is_compared(other: dict[str, Any], words: str) -> None:
    (said,) = disagreements(cards(entries(1), entries(2, **other)), NAMES)
    assert said == f"workers registered different copies of qwen: {words}"


def test_all_differences_of_a_model_are_one_sentence() -> None:
    (said,) = disagreements(cards(entries(1), entries(2, config="d", tokenizer="e", block=1)), NAMES)
    assert said.count("is ") == 3
    assert said.count("; ") == 2


def test_roles_differ_only_in_what_is_the_model() -> None:
    """The frontend takes the template from decode, and each role has limits of its own."""
    other = entries(2, component="prefill", chat_template="dd", length=1, block=1, path="/other")
    assert disagreements(cards(entries(1), other), NAMES) == []
    other = entries(2, component="prefill", tokenizer="dddddddd44")
    (said,) = disagreements(cards(entries(1), other), {})
    assert said.endswith("dddddddd (prefill at 10.0.0.1:4002)")


def test_two_models_are_not_compared() -> None:
    assert disagreements(cards(entries(1), entries(2, model="llama", config="d")), NAMES) == []


def test_a_card_of_dynamo_1_4_has_no_path() -> None:
    assert disagreements(cards(entries(1, path=None), entries(2, path="/b")), NAMES) == []


def test_a_file_that_only_one_has_is_missing_at_the_other() -> None:
    card, instance = entries(2)
    body = json.loads(card)
    del body["card_json"]["chat_template_file"]
    (said,) = disagreements(cards(entries(1), (json.dumps(body), instance)), NAMES)
    assert said.endswith("chat_template.jinja is cccccccc (worker-0), missing (worker-1)")


def test_a_worker_without_an_address_is_called_by_its_instance() -> None:
    pairs = [entries(0x1F), entries(2, config="d")]
    (said,) = disagreements(registered([card for card, _ in pairs], []), {"2": "worker-1"})
    assert "aaaaaaaa (backend at 1f)" in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"card_json": 1, "instance_id": 1}',
        '{"card_json": {"display_name": 1}}',
        b"\xff",
    ],
)
def test_what_is_not_a_card_is_left_out(text: str | bytes) -> None:
    assert registered([text], [text, '{"instance_id": 1, "transport": "x"}']) == []
