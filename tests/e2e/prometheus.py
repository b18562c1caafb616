"""A real Prometheus: the one that is installed, or Debian's, unpacked into the user's cache folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from .conftest import Cli, free_port, wait_for

PROGRAMS = ("prometheus", "promtool")
# Wide enough for some scrapes of a second each, on a busy machine too.
WINDOW = "30s"


@dataclass(frozen=True)
class Prometheus:
    """One that runs; `url` is its base URL."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """What its HTTP API answers; an expression that does not parse is an HTTP error."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        assert body["status"] == "success", body
        return body["data"]

    def vector(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant vector: `metric` (labels) and `value`."""
        data = self.ask("query", query=expr)
        assert data["resultType"] == "vector"
        result: list[dict[str, Any]] = data["result"]
        return result

    def targets(self) -> dict[tuple[str, str], str]:
        """(deployment, unit) -> up, down or unknown."""
        active = self.ask("targets", state="active")["activeTargets"]
        return {(one["labels"]["deployment"], one["labels"]["unit"]): one["health"] for one in active}


def programs() -> dict[str, str]:
    """prometheus and promtool; the test is skipped where they cannot be had."""
    installed = {name: path for name in PROGRAMS if (path := shutil.which(name))}
    if len(installed) == len(PROGRAMS):
        return installed
    cache = platformdirs.user_cache_path("dynamoctl-tests") / "prometheus"
    if not cache.exists():
        _download(cache)
    return {name: str(cache / "usr" / "bin" / name) for name in PROGRAMS}


def _download(cache: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("no prometheus on the path, and no apt-get and dpkg to get Debian's")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as work:
        got = subprocess.run(
            ["apt-get", "download", "prometheus"],
            cwd=work, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        packages = list(Path(work).glob("prometheus_*.deb"))
        if got.returncode != 0 or not packages:
            lines = (got.stderr or got.stdout).strip().splitlines() or ["no output"]
            pytest.skip(f"no prometheus on the path, and apt-get download prometheus failed: {lines[-1]}")
        subprocess.run(["dpkg", "-x", packages[0], f"{work}/root"], check=True)
        Path(work, "root").rename(cache)


def exported(cli: Cli, at: Path, *words: str) -> Path:
    """The configuration that `export prometheus` writes, found good by promtool."""
    file = at / "prometheus.yml"
    done = cli("export", "prometheus", "--format", "config", "-o", str(file), *words)
    assert done.code == 0, done.err
    checked = subprocess.run(
        [programs()["promtool"], "check", "config", str(file)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return file


@contextmanager
def running(config: Path, at: Path) -> Iterator[Prometheus]:
    """A Prometheus on the loopback that scrapes every second."""
    fast = at / "every-second.yml"
    text = config.read_text()
    fast.write_text(text.replace("scrape_interval: 15s", "scrape_interval: 1s"))
    assert fast.read_text() != text
    port = free_port()
    with (at / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                programs()["prometheus"],
                f"--config.file={fast}",
                f"--storage.tsdb.path={at / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        one = Prometheus(f"http://127.0.0.1:{port}")
        wait_for(lambda: process.poll() is not None or _is_ready(one), 60)
        assert process.poll() is None, (at / "prometheus.log").read_text()
        yield one
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(one: Prometheus) -> bool:
    try:
        with urllib.request.urlopen(f"{one.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def expressions(cli: Cli) -> dict[str, str]:
    """The dashboard's: panel and letter -> PromQL, with its variables as Grafana fills them in for All."""
    board = cli("export", "grafana", "--json").json["content"]
    every = {variable["name"]: variable.get("allValue") for variable in board["templating"]["list"]}
    assert every == {"datasource": None, "deployment": ".+", "unit": ".+"}
    found = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval_ms", WINDOW.replace("s", "000"))
            expr = expr.replace("$__rate_interval", WINDOW)
            expr = re.sub(r"\$(deployment|unit)\b", lambda one: every[one[1]], expr)
            assert "$" not in expr
            found[f"{panel['title']} {target['refId']}"] = expr
    return found


def names(cli: Cli) -> dict[str, str]:
    """What fills the dashboard's variables: the selector inside each `label_values`."""
    board = cli("export", "grafana", "--json").json["content"]
    found = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inside = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert inside is not None
            found[inside[2]] = inside[1].replace("$deployment", ".+")
    return found
