"""Whose a process is, who listens, and what shows that a file was made: each with one look at the host."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from dynamoctl.host.processes import (
    MARK,
    Identity,
    environment_of,
    identify,
    listeners,
    listens,
    members,
    members_of_each,
    traces_of_files,
)

from tests.unit.fresh import last_line

# Listens, and has a child that holds no socket and, if it is told so, does not carry the mark.
SCRIPT = """
import os, socket, subprocess, sys, time
listener = socket.socket()
listener.bind(("127.0.0.1", 0)); listener.listen()
environ = {} if sys.argv[1] == "wiped" else None
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environ)
print(listener.getsockname()[1], child.pid, flush=True)
time.sleep(600)
"""


class Started:
    """A unit's first process, which listens, and its child."""

    def __init__(self, start_id: str, unit: str, how: str) -> None:
        self.mark = f"{start_id}/{unit}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, how],
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.port, child = map(int, self.process.stdout.readline().split())
        self.leader, self.child = _identity(self.process.pid), _identity(child)

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _identity(pid: int) -> Identity:
    found = identify(pid)
    assert found is not None
    return found


@pytest.fixture
def units() -> Iterator[tuple[Started, Started]]:
    start_id = uuid.uuid4().hex
    both = Started(start_id, "worker-0", "marked"), Started(start_id, "worker-1", "wiped")
    yield both
    for one in both:
        one.end()


def test_each_unit_gets_its_own_processes(units: tuple[Started, Started]) -> None:
    """By the mark, and where that was wiped by the session."""
    marked, wiped = units
    leaders = {one.mark: one.leader for one in units}
    there = members_of_each(leaders)
    assert {mark: set(own) for mark, own in there.items()} == {
        one.mark: {one.leader, one.child} for one in units
    }
    assert there == {mark: members(mark, leader) for mark, leader in leaders.items()}
    # Without its leader, nothing tells whose the other child is.
    assert members_of_each({wiped.mark: None, marked.mark: None})[wiped.mark] == [wiped.leader]
    # A session of that number that began before the leader did is another one.
    later = Identity(wiped.leader.pid, wiped.child.start_ticks + 1, wiped.leader.boot_id)
    assert wiped.child not in members_of_each({wiped.mark: later})[wiped.mark]


def test_a_start_has_the_processes_of_all_its_units(units: tuple[Started, Started]) -> None:
    marked, wiped = units
    everything = f"{marked.mark.partition('/')[0]}/"
    assert set(members(everything)) == {marked.leader, marked.child, wiped.leader}
    assert members(f"{uuid.uuid4().hex}/") == []


def test_the_environment_of_a_process_that_has_just_started_is_there() -> None:
    """Popen() returns before the kernel has set it up: one in thirty showed none when it was read once."""
    for _ in range(100):
        with subprocess.Popen(["sleep", "600"], env={MARK: "x/y"}) as process:
            try:
                assert environment_of(process.pid, MARK) == "x/y"
            finally:
                process.kill()


def test_who_listens(units: tuple[Started, Started]) -> None:
    one, other = units
    assert listeners([one.child, one.leader, other.leader]) == {
        one.port: one.leader,
        other.port: other.leader,
    }
    assert listens(one.port, [one.child, one.leader])
    assert not listens(one.port, [one.child, other.leader])
    one.process.kill()
    one.process.wait(30)
    assert listeners([one.leader]) == {}


def test_a_port_of_ipv6_is_seen_and_a_connection_is_none() -> None:
    me = _identity(os.getpid())
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("::1", port)) as line:
            ports = listeners([me])
            assert ports[port] == me
            assert line.getsockname()[1] not in ports


def test_shared_memory_and_sockets_leave_a_trace(tmp_path: Path) -> None:
    seen = [traces_of_files()]
    shared = Path("/dev/shm") / f"dynamoctl-test-{uuid.uuid4().hex}"
    try:
        shared.touch()
        seen.append(traces_of_files())
    finally:
        shared.unlink()
    with socket.socket(socket.AF_UNIX) as one:
        before = traces_of_files()
        one.bind(str(tmp_path / "socket"))
        assert traces_of_files() != before
    assert seen[0] != seen[1]


def test_a_supervisor_does_not_carry_what_it_does_not_need() -> None:
    """Its memory is there for as long as the deployment is."""
    script = """
import sys
import dynamoctl.supervisor.run
print(sorted({"pydantic", "prometheus_client", "psutil", "rich", "typer", "yaml"} & sys.modules.keys()))
"""
    assert last_line(script) == "[]"
