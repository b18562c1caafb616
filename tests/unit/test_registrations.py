"""Which registrations are a dead worker's: those whose request port none of the living listens on."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from dynamoctl.host.processes import Identity, identify
from dynamoctl.supervisor.registrations import remove_dead

LIVE, DEAD = "105391dec6c547", "fd405ff89e074cce"


def me() -> Identity:
    found = identify(os.getpid())
    assert found is not None
    return found


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def instance(store: Path, name: str, port: int, endpoint: str = "generate") -> None:
    for kind, body in (
        ("instances", {"type": "Endpoint", "transport": {"tcp": f"127.0.0.1:{port}/{name}/{endpoint}"}}),
        ("mdc", {"type": "Model", "card_json": {}}),
    ):
        folder = store / "v1" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"dynamoctl%2Dq%2Fprefill%2F{endpoint}%2F{name}").write_text(json.dumps(body))


def files(store: Path) -> set[str]:
    return {f"{file.parent.name}/{file.name.rpartition('%2F')[2]}" for file in store.rglob("*%2F*")}


def test_what_a_dead_worker_registered_goes_and_a_living_ones_stays(tmp_path: Path, port: int) -> None:
    instance(tmp_path, LIVE, port)
    instance(tmp_path, DEAD, port + 1)
    instance(tmp_path, DEAD, port + 1, "clear_kv_blocks")
    assert remove_dead(tmp_path, [me()]) == [DEAD]
    assert files(tmp_path) == {f"instances/{LIVE}", f"mdc/{LIVE}"}


def test_a_port_that_a_stranger_has_taken_since_does_not_keep_it(tmp_path: Path, port: int) -> None:
    instance(tmp_path, DEAD, port)
    assert remove_dead(tmp_path, []) == [DEAD]
    assert files(tmp_path) == set()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"transport": {"nats": "x"}}', '{"transport": {"tcp": 5}}'])
def test_what_says_no_port_is_left_alone(tmp_path: Path, text: str) -> None:
    instance(tmp_path, DEAD, 1)
    for file in tmp_path.rglob("*%2F*"):
        file.write_text(text)
    assert remove_dead(tmp_path, [me()]) == []
    assert files(tmp_path) == {f"instances/{DEAD}", f"mdc/{DEAD}"}


def test_a_store_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert remove_dead(tmp_path / "store", [me()]) == []
