"""In etcd, the leases of dead units are ended, and no others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import cast

import pytest
from dynamoctl.errors import PreflightError
from dynamoctl.host.processes import Identity, identify
from dynamoctl.monitoring.etcd import Etcd
from dynamoctl.supervisor.leases import Leases

HERE = "10.0.0.1"


class Store:
    """An etcd with these leases."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.revoked: list[str] = []
        self.keys: dict[str, dict[bytes, bytes]] = {}
        self.usable = True

    def __call__(self) -> Etcd:
        if not self.usable:
            raise PreflightError("its certificates cannot be used")
        return cast("Etcd", self)

    def leases(self, namespace: str) -> dict[str, str]:
        assert namespace == "dynamoctl-default"
        return dict(self.found)

    def revoke(self, lease: str) -> None:
        self.revoked.append(lease)

    def take_out(self, lease: str) -> dict[bytes, bytes]:
        return self.keys.pop(lease, {})

    def put_back(self, lease: str, entries: dict[bytes, bytes]) -> None:
        self.keys[lease] = entries


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def leases(store: Store) -> Leases:
    return Leases(store, "dynamoctl-default", HERE)


class Unit:
    """A process that listens on a port."""

    def __init__(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.read()"],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )

    @property
    def identity(self) -> Identity:
        found = identify(self.process.pid)
        assert found is not None
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def unit() -> Iterator[Unit]:
    one = Unit()
    yield one
    one.kill()


def myself() -> Identity:
    found = identify(os.getpid())
    assert found is not None
    return found


def test_the_lease_of_a_killed_unit_is_ended_and_no_other(store: Store, leases: Leases, unit: Unit) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        mine = listener.getsockname()[1]
        store.found = {
            "1": f"{HERE}:{unit.port}",
            "2": f"{HERE}:{mine}",
            "3": f"10.0.0.2:{unit.port}",  # another host's
            "4": f"{HERE}:1",  # another deployment's part on this host
        }
        leases.learn(lambda: [myself(), unit.identity])
    leases.end_those_of_the_dead()
    assert store.revoked == []
    unit.kill()
    leases.end_those_of_the_dead()
    leases.end_those_of_the_dead()
    assert store.revoked == ["1"]


def test_processes_are_looked_at_where_a_lease_is_new(store: Store, leases: Leases, unit: Unit) -> None:
    asked = 0

    def living() -> Iterable[Identity]:
        nonlocal asked
        asked += 1
        return [unit.identity]

    leases.learn(living)
    store.found = {"3": f"10.0.0.2:{unit.port}"}
    leases.learn(living)
    assert asked == 0
    store.found["1"] = f"{HERE}:{unit.port}"
    leases.learn(living)
    leases.learn(living)
    assert asked == 1


def test_an_etcd_that_cannot_be_used_is_no_failure(store: Store, leases: Leases, unit: Unit) -> None:
    store.found = {"1": f"{HERE}:{unit.port}"}
    leases.learn(lambda: [unit.identity])
    store.usable = False
    leases.learn(lambda: [unit.identity])
    unit.kill()
    leases.end_those_of_the_dead()
    assert store.revoked == []


def test_what_is_withheld_is_taken_out_once_and_put_back_as_it_was(
    store: Store, leases: Leases, unit: Unit
) -> None:
    store.found = {"1": f"{HERE}:{unit.port}"}
    store.keys = {"1": {b"v1/instances/a": b"{}"}, "2": {b"v1/instances/b": b"{}"}}
    leases.learn(lambda: [unit.identity])
    for _ in range(2):
        leases.withhold([unit.identity])
    assert store.keys.keys() == {"2"}
    leases.hand_back([myself()])
    assert store.keys.keys() == {"2"}
    leases.hand_back([unit.identity])
    assert store.keys["1"] == {b"v1/instances/a": b"{}"}


def test_what_was_not_taken_out_the_first_time_is_later(store: Store, leases: Leases, unit: Unit) -> None:
    store.found = {"1": f"{HERE}:{unit.port}"}
    store.keys = {"1": {b"v1/instances/a": b"{}"}}
    leases.learn(lambda: [unit.identity])
    leases.withhold([unit.identity])
    store.keys = {"1": {b"v1/mdc/a": b"[]"}}  # etcd had not deleted it
    leases.withhold([unit.identity])
    assert store.keys == {}
    leases.hand_back([unit.identity])
    assert store.keys["1"] == {b"v1/instances/a": b"{}", b"v1/mdc/a": b"[]"}


def test_what_an_etcd_that_is_away_was_to_get_back_it_gets_when_it_answers(
    store: Store, leases: Leases, unit: Unit
) -> None:
    store.found = {"1": f"{HERE}:{unit.port}"}
    store.keys = {"1": {b"v1/instances/a": b"{}"}}
    leases.learn(lambda: [unit.identity])
    leases.withhold([unit.identity])
    store.usable = False
    leases.hand_back([unit.identity])
    leases.learn(lambda: [unit.identity])
    store.usable = True
    leases.learn(lambda: [unit.identity])
    assert store.keys["1"] == {b"v1/instances/a": b"{}"}


def test_what_was_withheld_of_a_dead_unit_is_not_put_back(store: Store, leases: Leases, unit: Unit) -> None:
    store.found = {"1": f"{HERE}:{unit.port}"}
    store.keys = {"1": {b"v1/instances/a": b"{}"}}
    leases.learn(lambda: [unit.identity])
    identity = unit.identity
    leases.withhold([identity])
    unit.kill()
    leases.end_those_of_the_dead()
    leases.hand_back([identity])
    assert store.keys == {}
