"""The living stay registered in Dynamo's file discovery, the dead do not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.host.processes import Identity, identify
from dynamoctl.supervisor import registrations
from dynamoctl.supervisor.registrations import AHEAD_S, PUT_BACK_S, Registrations

LIVE, DEAD = "105391dec6c547", "fd405ff89e074cce"


class Clock:
    """The time since the host's start, and that of the day."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.day = 1.8e9

    def __call__(self) -> tuple[float, float]:
        return self.now, self.day + self.now


def me() -> list[Identity]:
    found = identify(os.getpid())
    assert found is not None
    return [found]


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def kept(store: Path, clock: Clock) -> Registrations:
    return Registrations(store, clock)


def write(store: Path, kind: str, name: str, body: dict[str, Any]) -> None:
    folder = store / "v1" / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"dynamoctl%2Dq%2Fprefill%2Fgenerate%2F{name}").write_text(json.dumps(body))


def worker(store: Path, name: str, port: int) -> None:
    """What a worker of Dynamo 1.4 registers."""
    write(store, "instances", name, {"transport": {"tcp": f"127.0.0.1:{port}/{name}/generate"}})
    write(store, "mdc", name, {"type": "Model", "instance_id": int(name, 16), "card_json": {}})
    channel = {"kind": "Zmq", "config": {"endpoint": f"tcp://192.0.2.1:{port}"}}
    write(store, "event_channels", f"1{name}", {"type": "EventChannel", "transport": channel})
    source = {"metadata": {"worker": {"worker_id": int(name, 16), "dp_rank": 0}}}
    write(store, "event_sources", f"2{name}", source)


def files(store: Path) -> set[str]:
    return {f"{file.parent.name}/{file.name.rpartition('%2F')[2]}" for file in store.glob("v1/*/*")}


def all_of(name: str) -> set[str]:
    return {f"instances/{name}", f"mdc/{name}", f"event_channels/1{name}", f"event_sources/2{name}"}


def ages(store: Path) -> list[float]:
    return [file.stat().st_mtime for file in store.glob("v1/*/*")]


def remove_all(store: Path) -> None:
    for file in list(store.glob("v1/*/*")):
        file.unlink()


def test_what_the_living_have_registered_is_touched(
    store: Path, kept: Registrations, clock: Clock, port: int
) -> None:
    worker(store, LIVE, port)
    for file in store.glob("v1/*/*"):
        os.utime(file, (1, 1))
    kept.keep(me)
    # Ahead: the supervisor itself may be starved from now on.
    _, day = clock()
    assert ages(store) == [day + AHEAD_S] * 4
    assert kept.has_any(me())
    assert not kept.has_any([])


def test_what_was_lost_before_it_was_seen_is_told(store: Path, kept: Registrations, port: int) -> None:
    assert not kept.has_never_seen(me())  # nobody has looked
    kept.keep(me)
    kept.keep(me)
    assert kept.has_never_seen(me())
    worker(store, LIVE, port + 1)
    kept.keep(me)
    kept.keep(me)
    assert not kept.has_never_seen(me())  # it may be theirs
    worker(store, LIVE, port)
    kept.keep(me)
    kept.keep(me)
    assert not kept.has_never_seen(me())
    assert kept.has_never_seen([])


def test_what_nobody_known_has_registered_is_left_to_dynamo(
    store: Path, kept: Registrations, port: int
) -> None:
    worker(store, DEAD, port + 1)
    for file in store.glob("v1/*/*"):
        os.utime(file, (1, 1))
    kept.keep(me)
    assert ages(store) == [1, 1, 1, 1]
    assert not kept.has_any(me())


@pytest.mark.parametrize("lose", ["file", "store"])
def test_what_was_removed_of_the_living_is_put_back(
    store: Path, kept: Registrations, clock: Clock, port: int, lose: str
) -> None:
    worker(store, LIVE, port)
    kept.keep(me)
    texts = {file.name: json.loads(file.read_text()) for file in store.glob("v1/*/*")}
    remove_all(store)
    if lose == "store":
        for folder in (*store.glob("v1/*"), store / "v1", store):
            folder.rmdir()
    kept.keep(me)
    clock.now += PUT_BACK_S - 1
    kept.keep(me)
    # It may be leaving in peace.
    assert files(store) == set()
    assert not kept.has_any(me())
    clock.now += 1
    assert kept.keep(me) is (lose == "store")
    assert kept.keep(me) is False
    assert {file.name: json.loads(file.read_text()) for file in store.glob("v1/*/*")} == texts
    assert sorted(store.parent.rglob("*.registration")) == []


@pytest.mark.parametrize("jumps", ["now", "day"])
def test_what_nobody_can_have_touched_for_long_is_put_back_at_once(
    store: Path, kept: Registrations, clock: Clock, port: int, jumps: str
) -> None:
    """Its process and the supervisor were starved together, or the clock was set: it has expired."""
    worker(store, LIVE, port)
    kept.keep(me)
    setattr(clock, jumps, getattr(clock, jumps) + PUT_BACK_S)
    kept.keep(me)
    remove_all(store)
    kept.keep(me)
    assert files(store) == set()
    setattr(clock, jumps, getattr(clock, jumps) + PUT_BACK_S)
    kept.keep(me)
    assert files(store) == all_of(LIVE)


def test_a_clock_that_was_set_back_does_not_keep_it_away(
    store: Path, kept: Registrations, clock: Clock, port: int
) -> None:
    worker(store, LIVE, port)
    kept.keep(me)
    remove_all(store)
    clock.day -= 3600
    clock.now += PUT_BACK_S
    kept.keep(me)
    assert files(store) == all_of(LIVE)


def moved(store: Path, kind: str, name: str, body: dict[str, Any]) -> None:
    """Written beside its place and moved there, as Dynamo does it."""
    write(store, kind, "beside", body)
    folder = store / "v1" / kind
    (folder / "dynamoctl%2Dq%2Fprefill%2Fgenerate%2Fbeside").replace(
        folder / f"dynamoctl%2Dq%2Fprefill%2Fgenerate%2F{name}"
    )


def test_what_is_put_back_is_what_was_written_last(
    store: Path, kept: Registrations, clock: Clock, port: int
) -> None:
    worker(store, LIVE, port)
    kept.keep(me)
    kept.keep(me)
    moved(store, "mdc", LIVE, {"type": "Model", "instance_id": int(LIVE, 16), "card_json": {"new": 1}})
    kept.keep(me)
    card = next(store.glob("v1/mdc/*"))
    card.unlink()
    kept.keep(me)
    clock.now += PUT_BACK_S
    kept.keep(me)
    assert json.loads(card.read_text())["card_json"] == {"new": 1}


def test_a_file_is_read_again_where_its_folder_has_changed(
    store: Path, kept: Registrations, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    text = registrations._text

    def remembered(path: Path) -> str:
        read.append(path)
        return text(path)

    monkeypatch.setattr(registrations, "_text", remembered)

    def rounds(count: int) -> int:
        read.clear()
        for _ in range(count):
            kept.keep(me)
        return len(read)

    worker(store, LIVE, port)
    # Once more than it is seen to change: the first look may have come in the middle.
    assert rounds(5) == 2 * 4
    for file in store.glob("v1/*/*"):
        os.utime(file)
    assert rounds(5) == 0
    moved(store, "mdc", LIVE, {"type": "Model", "instance_id": int(LIVE, 16), "card_json": {"new": 1}})
    assert rounds(5) == 2 * 4


def test_whose_it_is_may_be_found_out_later(store: Path, kept: Registrations, port: int) -> None:
    worker(store, LIVE, port)
    for _ in range(3):
        kept.keep(list)
    assert not kept.has_any(me())
    kept.keep(me)
    assert kept.has_any(me())


def test_what_is_half_written_is_read_again(store: Path, kept: Registrations, port: int) -> None:
    worker(store, LIVE, port)
    file = next(store.glob("v1/mdc/*"))
    text = file.read_text()
    file.write_text(text[:-5])
    for _ in range(3):
        kept.keep(me)
    file.write_text(text)
    os.utime(file, (1, 1))
    kept.keep(me)
    assert file.stat().st_mtime > 1


def test_what_a_process_registered_goes_when_it_has_ended(store: Path, kept: Registrations) -> None:
    script = """
import socket, sys
one = socket.create_server(("127.0.0.1", 0))
print(one.getsockname()[1], flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        worker(store, DEAD, int(other.stdout.readline()))
        its = identify(other.pid)
        assert its is not None
        kept.keep(lambda: [its])
        assert files(store) == all_of(DEAD)
        other.kill()
        other.wait(30)
        kept.keep(list)
    assert files(store) == set()


def test_the_dead_are_forgotten_at_once_and_the_living_stay(
    store: Path, kept: Registrations, port: int
) -> None:
    worker(store, LIVE, port)
    worker(store, DEAD, port + 1)
    kept.forget_the_dead(me())
    # Its channel and source name no instance that is known; they go with their process, or with the store.
    assert files(store) >= all_of(LIVE)
    assert not files(store) & {f"instances/{DEAD}", f"mdc/{DEAD}"}


def test_a_port_that_a_stranger_has_taken_since_does_not_keep_it(
    store: Path, kept: Registrations, port: int
) -> None:
    worker(store, DEAD, port)
    kept.forget_the_dead([])
    assert not files(store) & {f"instances/{DEAD}", f"mdc/{DEAD}"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"transport": {"nats": "x"}}', '{"transport": {"tcp": 5}}', '{"transport": 1}']
)
def test_what_says_no_port_is_left_alone(store: Path, kept: Registrations, text: str) -> None:
    worker(store, DEAD, 1)
    for file in store.glob("v1/*/*"):
        file.write_text(text)
    kept.forget_the_dead(me())
    kept.keep(me)
    assert files(store) == all_of(DEAD)


@pytest.mark.parametrize("call", [lambda kept: kept.keep(me), lambda kept: kept.forget_the_dead(me())])
def test_a_store_that_is_not_there_has_none(
    store: Path, kept: Registrations, call: Callable[[Registrations], None]
) -> None:
    call(kept)
    assert not store.exists()


# ---- who lives and does not answer ----------------------------------------------------------


def test_what_is_withheld_is_gone_until_it_is_handed_back(
    store: Path, kept: Registrations, clock: Clock, port: int
) -> None:
    worker(store, LIVE, port)
    kept.keep(me)
    texts = {file: file.read_text() for file in store.glob("v1/*/*")}
    kept.withhold(me())
    assert files(store) == set()
    for _ in range(3):
        clock.now += PUT_BACK_S
        kept.keep(me)
        assert files(store) == set()
    assert kept.has_never_seen(me()) is False
    kept.hand_back(me())
    assert {file: file.read_text() for file in store.glob("v1/*/*")} == texts
    kept.keep(me)
    assert all(age == clock.day + clock.now + AHEAD_S for age in ages(store))


def test_what_is_written_again_meanwhile_is_withheld_too(
    store: Path, kept: Registrations, clock: Clock, port: int
) -> None:
    worker(store, LIVE, port)
    kept.keep(me)
    kept.withhold(me())
    worker(store, LIVE, port)
    kept.keep(me)
    assert files(store) == set()


def test_another_workers_registration_stays(store: Path, kept: Registrations, port: int) -> None:
    worker(store, LIVE, port)
    kept.keep(me)
    kept.withhold([Identity(os.getppid(), 1, "another boot")])
    assert files(store) == all_of(LIVE)
    kept.hand_back(me())
    assert files(store) == all_of(LIVE)
