"""Secrets never show in a plan."""

from __future__ import annotations

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.planner.secrets import HIDDEN, redact

from tests.unit.hosts import plan


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "LMCACHE_RESP_PASSWORD", "AWS_SECRET_ACCESS_KEY", "api_key", "ETCD_AUTH_CLIENT_KEY"]
)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert redact({"env": {name: "hunter2"}}) == {"env": {name: HIDDEN}}


def test_a_password_in_a_url_is_hidden_wherever_it_stands() -> None:
    body = {"argv": ["--l2", "redis://user:hunter2@host:6379/0"], "env": {"URL": "redis://:hunter2@host"}}
    assert "hunter2" not in str(redact(body))
    assert "host:6379/0" in str(redact(body))


def test_what_is_no_secret_stays() -> None:
    body = {"env": {"PYTHONHASHSEED": "0", "DYN_FILE_KV": "/store"}, "n": 1, "none": None}
    assert redact(body) == body


@pytest.mark.parametrize("arguments", [("--hf-token", "hunter2"), ("--hf_token=hunter2",)])
def test_a_secret_in_the_engines_arguments_is_refused_and_not_repeated(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="for everybody to read") as caught:
        plan(1, engine_args=arguments)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "arguments", [("--hf-token",), ("--max-num-batched-tokens", "512"), ("--max-model-len=2048",)]
)
def test_arguments_without_a_secret_are_passed_on(arguments: tuple[str, ...]) -> None:
    assert plan(1, engine_args=arguments).unit("worker-0").argv[-len(arguments) :] == arguments
