"""GPU tests share the real-process fixtures; without a GPU they are skipped, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from dynamoctl.host import gpus

from tests.e2e.conftest import cli

__all__ = ["cli"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if gpus.list_gpus():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))
