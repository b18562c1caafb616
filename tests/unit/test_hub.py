"""Requests to the hub, and the proxies in the environment: every form is used, or refused in words."""

from __future__ import annotations

import ast
import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from pathlib import Path

import dynamoctl
import pytest
from dynamoctl.checks import model as model_check
from dynamoctl.cli.up import curl_line
from dynamoctl.errors import PreflightError
from dynamoctl.host import hub, models
from dynamoctl.monitoring import loopback_http
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.hosts import host, plan

SECRET = "pw-8c31"
NAMES = ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")


@dataclass
class Server:
    """What answers every request with 200, and what it was asked: method, path, token."""

    url: str
    seen: list[tuple[str, str, str | None]]


@contextmanager
def serving() -> Iterator[Server]:
    seen: list[tuple[str, str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append((self.command, self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", seen)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


NEEDS_SOCKSIO = pytest.mark.skipif(util.find_spec("socksio") is not None, reason="SOCKS works here")


@pytest.fixture(autouse=True)
def _no_proxy_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*NAMES, "NO_PROXY", "no_proxy", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def refusal() -> PreflightError:
    with pytest.raises(PreflightError) as caught:
        models.require(models.locate("some/model"), os.environ)
    assert SECRET not in caught.value.message + caught.value.hint
    return caught.value


@NEEDS_SOCKSIO
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
def test_a_socks_proxy_is_refused_if_nothing_here_speaks_socks(
    monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    monkeypatch.setenv(name, f"{scheme}://me:{SECRET}@127.0.0.1:1080")
    error = refusal()
    assert error.message.startswith(f"{name} is a SOCKS proxy")
    assert f"unset {name}" in error.hint


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [f"socks4://me:{SECRET}@h:1", "ftp://h", "://", "a\nb", f"x://{SECRET}"])
def test_what_is_no_proxy_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal().message == f"{name} is not a proxy that can be used"


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "127.0.0.1:9", f"http://me:{SECRET}@127.0.0.1:9"])
def test_a_proxy_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"cannot be reached through the proxy in {name} (ConnectError)" in refusal().message


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, ""),
        ({"ALL_PROXY": "x"}, "ALL_PROXY"),
        ({"ALL_PROXY": "x", "HTTP_PROXY": "y"}, "HTTP_PROXY"),
        ({"ALL_PROXY": "x", "HTTPS_PROXY": "y"}, "ALL_PROXY"),
        ({"HTTP_PROXY": "x", "http_proxy": "y"}, "http_proxy"),
        ({"HTTP_PROXY": "x", "http_proxy": ""}, ""),
        ({"HTTP_PROXY": ""}, ""),
    ],
)
def test_small_letters_win_as_with_curl_and_python(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], variable: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert hub.proxy_variable("http://hub/") == variable


# What a client of the engine refuses, whatever ours makes of it.
@pytest.mark.packages
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ALL_PROXY", "http://[::1", "ALL_PROXY is not a proxy that can be used"),
        ("NO_PROXY", "localhost,[::1", "NO_PROXY has an entry that is not a host"),
        ("no_proxy", "[::1]:80", "NO_PROXY has an entry that is not a host"),
        ("NO_PROXY", "é", "NO_PROXY has an entry that is not a host"),
    ],
)
def test_what_the_engines_client_refuses(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal().message == message


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "localhost,127.0.0.1",
        ".example.com,::1",
        "*.example.com",
        "10.0.0.0/8",
        " , ",
        "http://h",
        "h:80",
    ],
)
def test_every_form_of_no_proxy_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NO_PROXY", value)
    assert "cannot be reached (ConnectError)" in refusal().message


@pytest.mark.parametrize(
    ("token", "sent"),
    [("hf_x\n", "Bearer hf_x"), (" hf_x ", "Bearer hf_x"), ("hf_x", "Bearer hf_x"), ("", None)],
)
def test_a_token_is_sent_as_huggingface_hub_sends_it(
    monkeypatch: pytest.MonkeyPatch, token: str, sent: str | None
) -> None:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", token)
        models.require(models.locate("some/model"), os.environ)
        assert server.seen == [("HEAD", "/some/model/resolve/main/config.json", sent)]


def test_a_token_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"“{SECRET}”")
    assert refusal().message.startswith("HF_TOKEN is not a token of the hub")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv(name, str(tmp_path / "missing.pem"))
    assert "cannot be re" in refusal().message  # some clients only say so when they connect


@pytest.mark.parametrize("endpoint", ["", "hub", "http://[", "ftp://hub", "http://h:99999", "http://\0", "é"])
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    if "\0" not in endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert "cannot be reached" in refusal().message


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("engine", ["vllm", "mocker"])
def test_vllm_asks_the_hub_for_a_model_that_is_here_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool, engine: str
) -> None:
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_text('{"eos_token_id": 2, "chat_template": "x"}', encoding="utf-8")
    (snapshot / "chat_template.jinja").write_text("x", encoding="utf-8")
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:1080")
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    model = models.locate("some/model")
    found = model_check.CHECK.run(plan(model_facts=model, engine=engine), host(), model)
    refused = engine == "vllm" and not offline
    assert [one.what for one in found] == ["ALL_PROXY is not a proxy that can be used"] * refused


def test_socks_is_left_to_those_who_speak_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With socksio: Dynamo goes to the hub without it, and so does the check."""
    monkeypatch.setattr(hub, "require_proxies", lambda: None)
    monkeypatch.setenv("ALL_PROXY", f"socks5://me:{SECRET}@127.0.0.1:9")
    assert "cannot be reached without the SOCKS proxy in ALL_PROXY" in refusal().message
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        models.require(models.locate("some/model"), os.environ)
        assert len(server.seen) == 1


def test_requests_to_the_loopback_take_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving() as server:
        assert asyncio.run(loopback_http.ask("GET", f"{server.url}/health")).status == 200


def test_the_line_that_up_prints_takes_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--noproxy" not in curl_line("http://127.0.0.1:8000", "m", chat=True)
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    assert curl_line("http://127.0.0.1:8000", "m", chat=True).startswith("curl -s --noproxy '*' http://127")


def test_no_other_client_reads_the_proxies() -> None:
    """Whatever is not for the hub goes to the deployment or to its etcd."""
    root = Path(dynamoctl.__file__).parent
    careless = []
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("httpx2.")):
                continue
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if given.get("trust_env") != "False":
                careless.append(f"{file.relative_to(root)}: {ast.unparse(node.func)}")
    assert sorted(careless) == ["host/hub.py: httpx2.Client", "host/hub.py: httpx2.HTTPTransport"]


@settings(max_examples=30)
@given(
    st.sampled_from([*NAMES, "NO_PROXY", "no_proxy"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
def test_whatever_a_proxy_is_set_to_it_is_used_or_refused(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patched, suppress(PreflightError):
        patched.setenv(name, value)
        hub.require_proxies()
