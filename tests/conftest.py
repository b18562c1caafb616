"""Settings for all tests; under pytest-xdist each process is a host of its own."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests import host
from tests.e2e import matrix

# What takes longest begins first; unit tests fill what the others leave of the machine.
ORDER = ("engine", "mocker", "gpu")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """More processes than cores, since deployments wait most of the time; one where they share a host."""
    cores = len(os.sched_getaffinity(0))
    if config.option.numprocesses == "logical":
        return cores
    return min(8, cores + 2) if host.can_be_made() else 1


def pytest_configure(config: pytest.Config) -> None:
    if host.is_worker(config) and host.can_be_made():
        host.make()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(ORDER) if item.get_closest_marker(name)), len(ORDER))

    items.sort(key=rank)


def pytest_sessionfinish(session: pytest.Session) -> None:
    matrix.hand_on(session.config)


def pytest_testnodedown(node: Any) -> None:
    """A process of pytest-xdist has ended: what it saw."""
    matrix.take(getattr(node, "workeroutput", {}))
