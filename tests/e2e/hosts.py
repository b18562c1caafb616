"""Two hosts on one machine: network namespaces with a link between them, and a real etcd in the first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from .conftest import wait_for

ETCD_PORT = 2379
# Asks a URL from inside a namespace: (status, body), or what went wrong.
_ASK = """
import json, sys, urllib.error, urllib.request
url, body, patience = sys.argv[1], sys.argv[2].encode() or None, float(sys.argv[3])
request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
try:
    with urllib.request.urlopen(request, timeout=patience) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""


@dataclass(frozen=True)
class Host:
    """One namespace: its name, its end of the link, and the address there."""

    name: str
    link: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*self.prefix, *words], capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, url: str, body: dict[str, Any] | None = None, patience_s: float = 60) -> tuple[int, str]:
        """The status and the text that a URL gives here; status 0 where nothing answers."""
        sent = "" if body is None else json.dumps(body)
        status, text = json.loads(self.run(sys.executable, "-c", _ASK, url, sent, str(patience_s)))
        return int(status), str(text)

    def set_link(self, up: bool) -> None:
        self.run("ip", "link", "set", self.link, "up" if up else "down")

    def received(self) -> int:
        """Bytes that have come in over the link."""
        (link,) = json.loads(self.run("ip", "-s", "-j", "link", "show", self.link))
        return int(link["stats64"]["rx"]["bytes"])


@contextmanager
def two_hosts(tag: str = "") -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other, and nobody else; the test is skipped where none can be made.

    Args:
        tag: a letter that tells pairs apart which a test has at the same time.
    """
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root, and ip (Debian: iproute2)")
    name = f"dctl{os.getpid()}{tag}"
    hosts = tuple(Host(f"{name}{end}", f"{name}{end}", f"10.77.0.{n}") for n, end in enumerate("ab", 1))
    with ExitStack() as stack:
        for host in hosts:
            added = subprocess.run(
                ["ip", "netns", "add", host.name], capture_output=True, text=True, check=False
            )
            if added.returncode != 0:
                pytest.skip(f"no network namespace can be made here: {added.stderr.strip()}")
            stack.callback(subprocess.run, ["ip", "netns", "del", host.name], check=True)
        first, second = hosts
        subprocess.run(
            ["ip", "link", "add", first.link, "netns", first.name, "type", "veth",
             "peer", "name", second.link, "netns", second.name],
            check=True,
        )  # fmt: skip
        for host in hosts:
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "address", "add", f"{host.address}/24", "dev", host.link)
            host.set_link(up=True)
        yield first, second


def etcd_program() -> str:
    """The etcd that is installed, or Debian's, unpacked into the user's cache folder."""
    installed = shutil.which("etcd")
    if installed:
        return installed
    cache = platformdirs.user_cache_path("dynamoctl-tests") / "etcd-server"
    if not cache.exists():
        _download(cache)
    return str(cache / "usr" / "bin" / "etcd")


def _download(cache: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("no etcd on the path, and no apt-get and dpkg to get Debian's")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as work:
        got = subprocess.run(
            ["apt-get", "download", "etcd-server"],
            cwd=work, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        packages = list(Path(work).glob("etcd-server_*.deb"))
        if got.returncode != 0 or not packages:
            lines = (got.stderr or got.stdout).strip().splitlines() or ["no output"]
            pytest.skip(f"no etcd on the path, and apt-get download etcd-server failed: {lines[-1]}")
        subprocess.run(["dpkg", "-x", packages[0], f"{work}/root"], check=True)
        Path(work, "root").rename(cache)


class Etcd:
    """A new, empty etcd on a host, reachable from the other; what it knows it keeps while it is stopped."""

    def __init__(
        self, host: Host, at: Path, *words: str, scheme: str = "http", port: int = ETCD_PORT
    ) -> None:
        self.url, peer = f"{scheme}://{host.address}:{port}", f"http://127.0.0.1:{port + 1}"
        self._command: Sequence[str] = (
            *host.prefix, etcd_program(),
            "--data-dir", str(at / "etcd"),
            "--listen-client-urls", self.url,
            "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}",
            *words,
        )  # fmt: skip
        self._log = at / "etcd.log"

    def start(self) -> None:
        """It serves when this returns."""
        said = self._times_ready()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self.process.poll() is not None or self._times_ready() > said, 60)
        assert self.process.poll() is None, self._log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _times_ready(self) -> int:
        return self._log.read_text().count("ready to serve") if self._log.exists() else 0


@contextmanager
def etcd(host: Host, at: Path, *words: str, scheme: str = "http", port: int = ETCD_PORT) -> Iterator[Etcd]:
    """One that serves until the end."""
    one = Etcd(host, at, *words, scheme=scheme, port=port)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def certificates(at: Path, address: str) -> dict[str, Path]:
    """A certificate authority, and what it has signed for an etcd at this address and for its clients."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on the path to make certificates with")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=at, capture_output=True, check=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt",
            "-days", "2", "-subj", "/CN=ca")  # fmt: skip
    (at / "names").write_text(f"subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n")
    for name in ("server", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.crt", "-days", "2", "-extfile", "names")  # fmt: skip
    return {file.name: file for file in at.glob("*.???")}
