"""Other process managers with plain processes, to put dynamoctl's own speed beside: supervisor, pm2, honcho.

Each has a folder of its own, and is ended when it is left. What cannot be installed here is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

PATIENCE_S = 120.0
_FOREVER = ("sleep", "1000000")


class Manager(ABC):
    """One of them, with so many processes that sleep.

    Attributes:
        name: of its daemon.
        status: the command that lists the processes; empty where it has none.
        pid: of its daemon.
    """

    name: str
    status: tuple[str, ...] = ()
    pid: int

    def __init__(self, tools: Path, folder: Path, processes: int) -> None:
        self.tools, self.folder, self.processes = tools, folder / self.name, processes
        self.folder.mkdir()
        self.environ: Mapping[str, str] = os.environ

    def __enter__(self) -> Manager:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    @abstractmethod
    def install(cls, tools: Path) -> None:
        """Into this folder, unless it is there. Raises OSError or CalledProcessError where it cannot be."""

    @abstractmethod
    def start(self) -> None:
        """Until all processes run."""

    @abstractmethod
    def stop(self) -> None:
        """Until none is left."""

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            words, env=dict(self.environ), check=True, capture_output=True, text=True, timeout=PATIENCE_S
        )
        return done.stdout

    def _daemon(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "out").open("wb") as out:
            return subprocess.Popen(words, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def _pip(tools: Path, distribution: str) -> None:
    venv = tools / "venv"
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, capture_output=True)
    subprocess.run(
        [str(venv / "bin/python"), "-m", "pip", "install", "-q", distribution],
        check=True,
        capture_output=True,
    )


class Supervisor(Manager):
    """supervisord and supervisorctl."""

    name = "supervisord"

    @classmethod
    def install(cls, tools: Path) -> None:
        """From PyPI."""
        if not (tools / "venv/bin/supervisord").exists():
            _pip(tools, "supervisor")

    def start(self) -> None:
        """A daemon in the foreground."""
        config = self.folder / "supervisord.conf"
        config.write_text(
            f"""[supervisord]
nodaemon=true
[unix_http_server]
file={self.folder}/sock
[supervisorctl]
serverurl=unix://{self.folder}/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:sleep]
command={" ".join(_FOREVER)}
numprocs={self.processes}
process_name=%(program_name)s_%(process_num)02d
"""
        )
        binaries = self.tools / "venv/bin"
        self.status = (str(binaries / "supervisorctl"), "-c", str(config), "status")
        self.daemon = self._daemon(str(binaries / "supervisord"), "-c", str(config))
        self.pid = self.daemon.pid
        _until(lambda: _count(self.status, " RUNNING ") == self.processes)

    def stop(self) -> None:
        """SIGTERM."""
        self.daemon.terminate()
        self.daemon.wait(PATIENCE_S)


class Pm2(Manager):
    """pm2 and its daemon."""

    name = "pm2"

    @classmethod
    def install(cls, tools: Path) -> None:
        """By npm."""
        if (tools / "pm2/node_modules/.bin/pm2").exists():
            return
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is not here")
        (tools / "pm2").mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", str(tools / "pm2"), "pm2"],
            check=True, capture_output=True,
        )  # fmt: skip

    def start(self) -> None:
        """A daemon of its own home."""
        self.environ = {**os.environ, "PM2_HOME": str(self.folder)}
        pm2 = str(self.tools / "pm2/node_modules/.bin/pm2")
        self.status = ("env", f"PM2_HOME={self.folder}", pm2, "ls")
        apps = [
            {
                "name": f"sleep_{i}",
                "script": shutil.which("sleep"),
                "args": _FOREVER[1],
                "interpreter": "none",
            }
            for i in range(self.processes)
        ]
        ecosystem = self.folder / "ecosystem.json"
        ecosystem.write_text(json.dumps({"apps": apps}))
        self._run(pm2, "start", str(ecosystem))
        self.pid = int((self.folder / "pm2.pid").read_text())

    def stop(self) -> None:
        """`pm2 kill`."""
        self._run(str(self.tools / "pm2/node_modules/.bin/pm2"), "kill")


class Honcho(Manager):
    """honcho: it runs in the foreground and has no status."""

    name = "honcho"

    @classmethod
    def install(cls, tools: Path) -> None:
        """From PyPI."""
        if not (tools / "venv/bin/honcho").exists():
            _pip(tools, "honcho")

    def start(self) -> None:
        """With a Procfile."""
        procfile = self.folder / "Procfile"
        procfile.write_text("".join(f"sleep{i}: {' '.join(_FOREVER)}\n" for i in range(self.processes)))
        self.daemon = self._daemon(str(self.tools / "venv/bin/honcho"), "-f", str(procfile), "start")
        self.pid = self.daemon.pid
        # It says so of each.
        _until(lambda: (self.folder / "out").read_text().count(" started (pid=") == self.processes)

    def stop(self) -> None:
        """SIGTERM."""
        self.daemon.terminate()
        self.daemon.wait(PATIENCE_S)


def available(tools: Path) -> list[type[Manager]]:
    """Those that are here or can be installed; of each other one it says why not."""
    found: list[type[Manager]] = []
    managers: tuple[type[Manager], ...] = (Supervisor, Pm2, Honcho)
    for manager in managers:
        try:
            manager.install(tools)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{manager.name} is left out: {error}", file=sys.stderr)
        else:
            found.append(manager)
    return found


def _count(words: tuple[str, ...], text: str) -> int:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.count(text)


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not up after {PATIENCE_S:g} s")
        time.sleep(0.2)
