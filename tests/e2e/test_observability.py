"""What is exported, against a real Prometheus that scrapes a deployment with Dynamo's mocker."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import prometheus
from .conftest import Cli, chat, free_port, post, wait_for

pytestmark = [pytest.mark.mocker, pytest.mark.xdist_group("observability"), pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def endpoint(cli: Cli) -> Iterator[str]:
    """A deployment for the module, `default`."""
    prometheus.programs()  # skips first
    port = free_port()
    up = cli("up", "agg", "--engine", "mocker", "--port", str(port))
    assert up.code == 0, up.err
    yield f"http://127.0.0.1:{port}"
    assert cli("down").code == 0


def file_of(cli: Cli) -> Path:
    return cli.home / "prometheus" / "default.json"


def test_prometheus_follows_a_deployment_that_comes_and_goes(cli: Cli, tmp_path: Path) -> None:
    """With the configuration that was exported before it was ever started."""
    config = prometheus.exported(cli, tmp_path)
    words = ("up", "agg", "--engine", "mocker", "-n", "other", "--workers", "2")
    assert cli(*words, "--port", str(free_port())).code == 0
    with prometheus.running(config, tmp_path) as one:
        units = {("other", unit): "up" for unit in ("frontend", "worker-0", "worker-1")}
        wait_for(lambda: one.targets() == units, 60)
        assert cli("down", "-n", "other").code == 0
        wait_for(lambda: one.targets() == {}, 60)
        assert cli(*words, "--port", str(free_port())).code == 0
        wait_for(lambda: one.targets() == units, 60)
        assert cli("down", "-n", "other").code == 0


def test_the_targets_are_those_of_the_file_that_is_kept(cli: Cli, endpoint: str) -> None:
    printed = cli("export", "prometheus")
    assert (printed.code, printed.err) == (0, "")
    groups = json.loads(printed.out)
    assert groups == json.loads(file_of(cli).read_text())
    assert groups[0]["targets"] == [endpoint.removeprefix("http://")]
    assert [one["labels"]["unit"] for one in groups] == ["frontend", "worker-0"]


def ask_wrongly(endpoint: str) -> None:
    """A request that the frontend takes and refuses."""
    body: dict[str, Any] = {"model": "no-such-model", "messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(urllib.error.HTTPError):
        post(f"{endpoint}/v1/chat/completions", body)


def test_every_expression_of_the_dashboard_parses_and_the_frontends_have_values(
    cli: Cli, endpoint: str, tmp_path: Path
) -> None:
    expressions = prometheus.expressions(cli)
    with prometheus.running(prometheus.exported(cli, tmp_path, "-n", "default"), tmp_path) as one:
        wait_for(lambda: set(one.targets().values()) == {"up"}, 60)
        for _ in range(3):
            chat(endpoint, MODEL, "Hello", max_tokens=8)
            ask_wrongly(endpoint)
        expected = {name for name, expr in expressions.items() if "dynamo_frontend" in expr or "up{" in expr}
        # No worker dies here, and before the first move there is no such counter: `test_migration` sees it.
        expected -= {name for name, expr in expressions.items() if "model_migration" in expr}
        assert len(expected) > 10

        def silent() -> set[str]:
            return {name for name, expr in expressions.items() if not one.vector(expr)}

        wait_for(lambda: not expected & silent(), 60)
        for label, selector in prometheus.names(cli).items():
            found = {series["metric"][label] for series in one.vector(selector)}
            assert found == {"deployment": {"default"}, "unit": {"frontend", "worker-0"}}[label]


def test_the_first_error_of_a_type_is_a_rate(cli: Cli, endpoint: str, tmp_path: Path) -> None:
    """The frontend has no series of a type before. `rate` alone takes its first value for the start."""
    expressions = prometheus.expressions(cli)
    with prometheus.running(prometheus.exported(cli, tmp_path, "-n", "default"), tmp_path) as one:

        def rates(panel: str, label: str) -> dict[str, float]:
            series = one.vector(expressions[f"{panel} A"])
            return {each["metric"][label]: float(each["value"][1]) for each in series}

        wait_for(lambda: bool(one.vector(f"up offset {prometheus.WINDOW}")), 60)
        assert "validation" not in rates("Errors per second", "error_type")
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "no_such_parameter": 1}
        with pytest.raises(urllib.error.HTTPError):
            post(f"{endpoint}/v1/chat/completions", body)
        wait_for(lambda: rates("Errors per second", "error_type").get("validation", 0) > 0, 20)
        assert rates("Requests per second", "status")["error"] > 0
