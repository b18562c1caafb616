"""An etcd that is away for a while, stopped, frozen or cut off, while clients chat with Dynamo's mocker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from . import hosts
from .conftest import PATIENCE_S, Cli, free_port, wait_for

pytestmark = [pytest.mark.mocker, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
# Seconds. The plan's leases are of 30, and a process renews its own after half of that: what is away for
# less than 15 costs nothing, at whatever moment it goes.
HARMLESS = 15
SHORT, LONG, RENEWED = (2, 5, 12), 30, 17


@dataclass(frozen=True)
class Served:
    """A deployment on one host, found in an etcd on another."""

    name: str
    cli: Cli
    port: int
    etcd: hosts.Etcd
    host: hosts.Host
    etcds_host: hosts.Host

    @contextmanager
    def away(self) -> Iterator[None]:
        """Its etcd is, as the deployment's name says."""
        process = self.etcd.process.pid
        if self.name == "stopped":
            self.etcd.stop()
        elif self.name == "frozen":
            os.kill(process, signal.SIGSTOP)
        else:
            self.etcds_host.set_link(up=False)
        try:
            yield
        finally:
            if self.name == "stopped":
                self.etcd.start()
            elif self.name == "frozen":
                os.kill(process, signal.SIGCONT)
            else:
                self.etcds_host.set_link(up=True)

    def unanswered(self, seconds: float) -> list[str]:
        """Chat for so long: what came where there was no answer."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 4}
        until, failed = time.monotonic() + seconds, []
        while time.monotonic() < until:
            status, text = self.host.ask(f"http://127.0.0.1:{self.port}/v1/chat/completions", body)
            if status != 200:
                failed.append(f"{status} {text}")
            time.sleep(1)
        return failed

    def status(self) -> dict[str, Any]:
        return self.cli("status", "-n", self.name, "--json").json

    def processes(self) -> dict[str, int]:
        return {unit["name"]: unit["pid"] for unit in self.status()["units"]}

    def is_ready(self) -> bool:
        return bool(self.status()["state"] == "ready")


@contextmanager
def serving(name: str, cli: Cli, at: Path, env: str = "") -> Iterator[Served]:
    """A deployment, with these lines in `[env]`."""
    with ExitStack() as stack:
        first, second = stack.enter_context(hosts.two_hosts(name[0]))
        (at / name).mkdir()
        config = at / f"{name}.toml"
        config.write_text(f"[env]\n{env}\n")
        etcd = stack.enter_context(hosts.etcd(first, at / name))
        there, port = replace(cli, prefix=second.prefix), free_port()
        up = there(
            "up", "agg", "-n", name, "--port", str(port), "--engine", "mocker", "--discovery", "etcd",
            "--etcd-endpoints", etcd.url, "--advertise", second.address, "--config", str(config),
            patience_s=PATIENCE_S,
        )  # fmt: skip
        assert up.code == 0, up.err
        yield Served(name, there, port, etcd, second, first)
        down = there("down", "-n", name)
        assert down.code == 0, down.err


def go_away_and_come_back(name: str, cli: Cli, at: Path) -> None:
    """Each time longer; the last time for longer than a lease lives."""
    with serving(name, cli, at) as served:
        for seconds in SHORT:
            time.sleep(RENEWED)
            before, began = served.processes(), time.monotonic()
            with served.away():
                failed = served.unanswered(seconds)
            was_away = time.monotonic() - began  # its start, too, takes some time
            failed += served.unanswered(RENEWED / 2)  # some end only when etcd has been back for a while
            print(f"{name} for {was_away:.1f} s: {failed}")
            if was_away < HARMLESS - 1:
                assert (failed, served.processes()) == ([], before), f"{name} for {was_away:.1f} s"
            else:  # a machine that is so busy
                assert seconds == SHORT[-1], f"{name} for {was_away:.1f} s"
                wait_for(served.is_ready, 60)
        time.sleep(RENEWED)
        before = served.processes()
        with served.away():
            failed = served.unanswered(LONG)
        began = time.monotonic()
        failed += served.unanswered(RENEWED)
        wait_for(served.is_ready, 60)
        after = served.processes()
        renewed = [unit for unit, pid in after.items() if pid != before[unit]]
        print(f"{name} for {LONG} s: {len(failed)} failed; anew: {renewed}; {time.monotonic() - began:.0f} s")
        assert served.unanswered(3) == []


@pytest.mark.fault(
    "etcd is stopped, frozen or cut off for 2, 5 and 12 s, then for 30 s",
    "up to 12 s nothing ends and every request is answered; what loses its lease is restarted at once",
)
def test_an_etcd_that_is_away(cli: Cli, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        kinds = ("stopped", "frozen", "cut-off")
        list(pool.map(partial(go_away_and_come_back, cli=cli, at=tmp_path), kinds))


def test_a_frontend_that_answers_is_not_taken_for_frozen(cli: Cli, tmp_path: Path) -> None:
    """Its /health waits for etcd for 20 s and more. The leases outlive this."""
    with serving("frozen", cli, tmp_path, 'ETCD_LEASE_TTL = "120"') as served:
        with served.away():
            assert served.unanswered(20) == []
        log = cli.home / "deployments/frozen/logs/supervisor.log"
        assert "frontend is out of service" not in log.read_text()
