"""What an etcd's HTTP gateway is asked, and what is made of its answers; a stand-in answers."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.checks import etcd as etcd_check
from dynamoctl.checks.base import Finding, Level
from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.monitoring.etcd import CERTIFICATES, Etcd, Instance, with_certificates

from tests.unit.hosts import FOLDER_MODEL, host, plan

LOGIN = {"ETCD_AUTH_USERNAME": "me", "ETCD_AUTH_PASSWORD": "pw"}
Answer = Callable[[str, dict[str, Any], str], tuple[int, Any]]


class Gateway:
    """Answers as `answer` says: (path, body, authorization) -> (status, body)."""

    def __init__(self) -> None:
        self.answer: Answer = lambda path, _body, _token: (
            200,
            {"health": "true"} if path == "/health" else {},
        )
        self.asked: list[str] = []
        self.url = ""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    one = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            one.asked.append(self.path)
            status, said = one.answer(self.path, body, self.headers.get("Authorization") or "")
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST  # noqa: N815  (the name that http.server looks for)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        one.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield one
        server.shutdown()
        thread.join()


def closed_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def with_password(values: list[bytes]) -> Answer:
    """An etcd that wants a name and a password."""

    def answer(path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        if path == "/v3/auth/authenticate":
            if body == {"name": "me", "password": "pw"}:
                return 200, {"token": "t"}
            return 400, {"error": "etcdserver: authentication failed, invalid user ID or password"}
        if token != "t":
            return 400, {"error": "etcdserver: user name is empty"}
        return 200, {"kvs": [{"value": base64.b64encode(value).decode()} for value in values]}

    return answer


def test_one_member_that_answers_is_enough(gateway: Gateway) -> None:
    assert Etcd([closed_port(), gateway.url], {}).answers() == (True, "")
    assert gateway.asked == ["/health"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, {"health": "false"}), "it is not healthy: it may have no leader"),
        ((200, b"<html>"), "what answers there is not an etcd"),
        ((404, {}), "HTTP 404"),
        ((503, {"error": "etcdserver: no leader"}), "no leader"),
    ],
)
def test_why_it_cannot_be_used(gateway: Gateway, answer: tuple[int, Any], why: str) -> None:
    gateway.answer = lambda *_: answer
    assert Etcd([gateway.url], {}).answers() == (False, why)


def test_nobody_there() -> None:
    answers, why = Etcd([closed_port()], {}).answers()
    assert (answers, "refused" in why) == (False, True)


def test_a_name_and_a_password_are_tried(gateway: Gateway) -> None:
    gateway.answer = with_password([])
    assert Etcd([gateway.url], LOGIN).answers() == (True, "")
    answers, why = Etcd([gateway.url], {**LOGIN, "ETCD_AUTH_PASSWORD": "other"}).answers()
    assert (answers, why) == (False, "authentication failed, invalid user ID or password")


def test_who_is_registered(gateway: Gateway) -> None:
    values = [
        b'{"component":"prefill","endpoint":"generate","transport":{"tcp":"10.0.0.2:4000/1a/generate"}}',
        b'{"component":"backend","endpoint":"generate","transport":{"tcp":"10.0.0.1:4001/1b/generate"}}',
        b"what a later Dynamo may write",
    ]
    gateway.answer = with_password(values)
    assert Etcd([gateway.url], LOGIN).instances("dynamoctl-default") == [
        Instance("backend", "generate", "10.0.0.1:4001"),
        Instance("prefill", "generate", "10.0.0.2:4000"),
    ]
    assert Etcd([gateway.url], {}).instances("dynamoctl-default") is None


def test_only_the_namespace_itself_is_asked_for(gateway: Gateway) -> None:
    """Not `dynamoctl-a` where `dynamoctl-ab` is another deployment."""
    asked: list[tuple[bytes, bytes]] = []

    def answer(_path: str, body: dict[str, Any], _token: str) -> tuple[int, Any]:
        asked.append((base64.b64decode(body["key"]), base64.b64decode(body["range_end"])))
        return 200, {}

    gateway.answer = answer
    assert Etcd([gateway.url], {}).instances("dynamoctl-a") == []
    assert asked == [(b"v1/instances/dynamoctl-a/", b"v1/instances/dynamoctl-a0")]


def test_the_leases_of_who_is_registered(gateway: Gateway) -> None:
    at = b'{"component":"prefill","endpoint":"generate","transport":{"tcp":"10.0.0.2:4000/1a/generate"}}'
    pairs = [(at, "26"), (at, "26"), (at, "0"), (b"{}", "27")]
    kvs = [{"value": base64.b64encode(value).decode(), "lease": lease} for value, lease in pairs]
    gateway.answer = lambda *_: (200, {"kvs": kvs})
    assert Etcd([gateway.url], {}).leases("dynamoctl-default") == {"26": "10.0.0.2:4000"}
    gateway.answer = lambda *_: (503, {})
    assert Etcd([gateway.url], {}).leases("dynamoctl-default") == {}


def test_a_lease_is_ended_where_it_can_be(gateway: Gateway) -> None:
    asked: list[tuple[str, dict[str, Any], str]] = []

    def answer(path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        asked.append((path, body, token))
        if path == "/v3/auth/authenticate":
            return 200, {"token": "t"}
        return 404, {"error": "etcdserver: requested lease not found"}

    gateway.answer = answer
    Etcd([gateway.url], LOGIN).revoke("26")
    assert asked[1:] == [("/v3/lease/revoke", {"ID": "26"}, "t")]
    Etcd([closed_port()], {}).revoke("26")


def test_what_is_registered_under_a_lease_is_taken_out_and_put_back(gateway: Gateway) -> None:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    asked: list[tuple[str, dict[str, Any]]] = []
    entries = [(b"v1/instances/a", b"{}", "26"), (b"v1/instances/b", b"{}", "27"), (b"v1/mdc/a", b"[]", "26")]

    def answer(path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        asked.append((path, body))
        kvs = [{"key": text(key), "value": text(value), "lease": lease} for key, value, lease in entries]
        return 200, {"kvs": kvs} if path == "/v3/kv/range" else {}

    gateway.answer = answer
    etcd = Etcd([gateway.url], {})
    taken = etcd.take_out("26")
    assert taken == {b"v1/instances/a": b"{}", b"v1/mdc/a": b"[]"}
    deleted = [body for path, body in asked if path == "/v3/kv/deleterange"]
    assert deleted == [{"key": text(key)} for key in taken]
    asked.clear()
    etcd.put_back("26", taken)
    put = [{"key": text(key), "value": text(value), "lease": "26"} for key, value in taken.items()]
    assert asked == [("/v3/kv/put", body) for body in put]


def test_what_may_have_been_deleted_counts_as_taken_out(gateway: Gateway) -> None:
    key = base64.b64encode(b"v1/instances/a").decode()

    def answer(path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        if path == "/v3/kv/range":
            return 200, {"kvs": [{"key": key, "value": base64.b64encode(b"{}").decode(), "lease": "26"}]}
        return 503, {"error": "etcdserver: request timed out"}

    gateway.answer = answer
    assert Etcd([gateway.url], {}).take_out("26") == {b"v1/instances/a": b"{}"}


def test_an_etcd_that_is_away_gives_nothing_out_and_takes_nothing_back() -> None:
    away = Etcd([closed_port()], {})
    with pytest.raises(DynamoctlError):
        away.take_out("26")
    with pytest.raises(DynamoctlError):
        away.put_back("26", {b"v1/instances/a": b"{}"})


# ---- certificates ---------------------------------------------------------------------------


def test_certificates_may_be_files_or_text(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    environ = {"ETCD_AUTH_CA": str(file), "ETCD_AUTH_CLIENT_CERT": "-----BEGIN ...", "OTHER": "x"}
    assert with_certificates(environ) == {**environ, "ETCD_AUTH_CA": file.read_text()}


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"ETCD_AUTH_CA: cannot read .*missing: No such file"):
        with_certificates({"ETCD_AUTH_CA": str(tmp_path / "missing")})


def test_what_is_no_certificate_is_said() -> None:
    environ = dict.fromkeys(CERTIFICATES, "-----BEGIN NOTHING-----")
    with pytest.raises(PreflightError, match="etcd's certificates cannot be used"):
        Etcd(["https://127.0.0.1:1"], environ)


# ---- doctor ---------------------------------------------------------------------------------


def findings(*endpoints: str, **fields: Any) -> list[Finding]:
    made = plan(mode="disagg", engine="mocker", discovery="etcd", etcd_endpoints=endpoints, **fields)
    return etcd_check.CHECK.run(made, host(), FOLDER_MODEL)


def test_up_refuses_where_etcd_does_not_answer(gateway: Gateway) -> None:
    assert findings(gateway.url) == []
    (finding,) = findings(closed_port())
    assert finding.level is Level.ERROR
    assert "refused" in finding.what
    assert etcd_check.CHECK.run(plan(), host(), FOLDER_MODEL) == []


def test_a_wrong_password_has_its_own_fix(gateway: Gateway) -> None:
    gateway.answer = with_password([])
    (finding,) = findings(gateway.url, env={**LOGIN, "ETCD_AUTH_PASSWORD": "other"})
    assert finding.fix == "fix ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD"
    assert "other" not in finding.what + finding.why


def test_dynamo_takes_a_password_or_certificates() -> None:
    (finding,) = findings("https://10.0.0.1:2379", env=LOGIN)
    assert "Dynamo does not use TLS with etcd if a user name and a password are set" in finding.what
    (finding,) = findings("https://10.0.0.1:2379", env={"ETCD_AUTH_CA": "/ca.pem"})
    assert finding.what == "etcd is at https://, and not set: ETCD_AUTH_CLIENT_CERT, ETCD_AUTH_CLIENT_KEY"


def test_other_hosts_cannot_reach_the_loopback(gateway: Gateway) -> None:
    (finding,) = findings(gateway.url, roles="prefill", advertise="lo")
    assert finding.level is Level.WARNING
    assert finding.what == "other hosts cannot reach this one at 127.0.0.1"


def test_registrations_of_a_kind(gateway: Gateway) -> None:
    asked = []

    def answer(_path: str, body: dict[str, Any], _token: str) -> tuple[int, Any]:
        asked.append(base64.b64decode(body["key"]))
        return 200, {"kvs": [{"value": base64.b64encode(b"card").decode()}]}

    gateway.answer = answer
    assert Etcd([gateway.url], {}).registrations("mdc", "n") == [b"card"]
    assert asked == [b"v1/mdc/n/"]
    assert Etcd([closed_port()], {}).registrations("mdc", "n") is None


def test_a_record_is_written_under_a_lease_and_renewed(gateway: Gateway) -> None:
    bodies = {}

    def answer(path: str, body: dict[str, Any], _token: str) -> tuple[int, Any]:
        bodies[path] = body
        ttl = {} if body.get("ID") == "8" else {"TTL": "30"}
        return 200, {"/v3/lease/grant": {"ID": "7"}, "/v3/lease/keepalive": {"result": ttl}}.get(path, {})

    gateway.answer = answer
    client = Etcd([gateway.url], {})
    assert client.publish("n", "start", b"record", 30) == "7"
    put = bodies["/v3/kv/put"]
    assert (base64.b64decode(put["key"]), put["lease"]) == (b"v1/dynamoctl/n/start", "7")
    assert bodies["/v3/lease/grant"] == {"TTL": 30}
    assert (client.renew("7"), client.renew("8")) == (True, False)
    gone = Etcd([closed_port()], {})
    with pytest.raises(DynamoctlError, match="refused"):
        gone.publish("n", "start", b"record", 30)
    with pytest.raises(DynamoctlError, match="refused"):
        gone.renew("7")
