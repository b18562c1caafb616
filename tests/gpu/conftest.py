"""GPU tests share the real-process fixtures; without a GPU they are skipped, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from dynamoctl.host import gpus

from tests.e2e.conftest import Cli, chat, cli

__all__ = ["cli"]


def prove(cli: Cli) -> None:
    """LMCache gives back what it was given; the engines' own caches are empty then but for the proof."""
    shown = cli("cache", "check", "--json")
    print(shown.out, shown.err)
    assert shown.code == 0
    assert shown.json["check"]["prefix_cache_cleared"] is True
    assert shown.json["check"]["same_answer"] is True


def assert_the_whole_prompt_comes_back(cli: Cli, endpoint: str, model: str, prompt: str) -> None:
    """Nothing of it is left in a GPU's own prefix cache: the first tokens, too, are LMCache's."""
    first = chat(endpoint, model, prompt, max_tokens=16)
    prove(cli)
    assert chat(endpoint, model, prompt, max_tokens=16) == first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if gpus.list_gpus():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))
