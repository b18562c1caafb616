"""How long a model's context is, and what the mocker is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dynamoctl.planner.arguments import argument
from dynamoctl.planner.model_length import own_context

from tests.unit.hosts import FOLDER_MODEL, plan


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (None, None),
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "seq_length": 2048}, 2048),
        ({"text_config": {"n_positions": 1024}, "max_position_embeddings": 4096}, 1024),
        ({"max_position_embeddings": True, "n_positions": "9", "seq_len": -1}, None),
    ],
)
def test_the_shortest_length_that_the_config_names_counts(
    config: dict[str, Any] | None, tokens: int | None
) -> None:
    assert own_context(config) == tokens


@pytest.mark.parametrize(
    ("config", "given", "told"),
    [
        (None, (), None),
        ({"max_position_embeddings": 4096}, (), "4096"),
        ({"max_position_embeddings": 4096}, ("--max-model-len", "512"), "512"),
    ],
)
def test_the_mocker_refuses_what_the_engine_would(
    config: dict[str, Any] | None, given: tuple[str, ...], told: str | None
) -> None:
    made = plan(engine="mocker", model_facts=replace(FOLDER_MODEL, config=config), engine_args=given)
    assert argument(made.unit("worker-0").argv, "--max-model-len") == told
