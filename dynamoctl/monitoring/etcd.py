"""An etcd that somebody runs: does it answer, and who is registered in it? By its HTTP gateway (etcd 3.4 on).

It is read, and leases are ended. Nothing is written but what a process of Dynamo had registered, taken out,
and put back as it was.

One attempt each, which blocks for some seconds at most. Name, password and certificates are what Dynamo
reads: ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD, or ETCD_AUTH_CA, ETCD_AUTH_CLIENT_CERT and
ETCD_AUTH_CLIENT_KEY.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import DynamoctlError, PreflightError

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 3.0
CERTIFICATES = ("ETCD_AUTH_CA", "ETCD_AUTH_CLIENT_CERT", "ETCD_AUTH_CLIENT_KEY")
_BEGIN = "-----BEGIN"
# What every key of Dynamo's discovery begins with (1.4).
_ROOT = b"v1/"


@dataclass(frozen=True)
class Instance:
    """An endpoint of a component that has registered, and the address at which it takes requests."""

    component: str
    endpoint: str
    address: str


def with_certificates(environ: Mapping[str, str]) -> dict[str, str]:
    """The same environment with each certificate and key as text.

    Dynamo 1.4 takes the text itself, and its documentation says a path: both are taken here.

    Raises:
        PreflightError: a file cannot be read.
    """
    found = dict(environ)
    for name in CERTIFICATES:
        value = environ.get(name, "")
        if not value or value.lstrip().startswith(_BEGIN):
            continue
        try:
            found[name] = Path(value).expanduser().read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise PreflightError(
                f"{name}: cannot read {value}: {why}", "name a PEM file, or give its text"
            ) from None
    return found


class Etcd:
    """The members of one etcd, asked in turn until one answers.

    Args:
        endpoints: their URLs.
        environ: the units' environment.

    Raises:
        PreflightError: a certificate cannot be used.
    """

    def __init__(self, endpoints: Sequence[str], environ: Mapping[str, str]) -> None:
        self._endpoints = endpoints
        self._login = (environ.get("ETCD_AUTH_USERNAME", ""), environ.get("ETCD_AUTH_PASSWORD", ""))
        self._verify: ssl.SSLContext | bool = True
        texts = with_certificates(environ)
        if all(texts.get(name) for name in CERTIFICATES):
            self._verify = _context(*(texts[name] for name in CERTIFICATES))

    def answers(self) -> tuple[bool, str]:
        """Whether it can be used: (yes, why not)."""
        try:
            if not all(self._login):
                body = self._first("GET", "/health")
                # Text in 3.4, a boolean in others.
                healthy = str(body.get("health")).lower() == "true"
                return healthy, "" if healthy else "it is not healthy: it may have no leader"
            self._range(_ROOT, 1)
        except _NoAnswerError as error:
            return False, str(error)
        return True, ""

    def instances(self, namespace: str) -> list[Instance] | None:
        """Who is registered in a namespace of Dynamo's; None where it does not say."""
        try:
            values = [value for _, value, _ in self._range(_instances(namespace))]
        except _NoAnswerError:
            return None
        return sorted(filter(None, map(_instance, values)), key=lambda one: (one.component, one.address))

    def leases(self, namespace: str) -> dict[str, str]:
        """Lease -> address of who is registered in a namespace; none where it does not say."""
        try:
            entries = self._range(_instances(namespace))
        except _NoAnswerError:
            return {}
        found = {lease: _instance(value) for _, value, lease in entries if lease not in ("", "0")}
        return {lease: one.address for lease, one in found.items() if one is not None}

    def revoke(self, lease: str) -> None:
        """End a lease, and with it all that is registered by it; nothing where that cannot be done."""
        with suppress(_NoAnswerError):
            self._first("POST", "/v3/lease/revoke", {"ID": lease}, self._token())

    def take_out(self, lease: str) -> dict[bytes, bytes]:
        """Delete what is registered under a lease, and leave the lease. Returns key -> value.

        A key of which etcd does not say that it is deleted is returned, too: it may be.

        Raises:
            DynamoctlError: etcd does not say what there is.
        """
        taken: dict[bytes, bytes] = {}
        try:
            for key, value, its in self._range(_ROOT):
                if its == lease:
                    taken[key] = value
                    self._first("POST", "/v3/kv/deleterange", {"key": _text(key)}, self._token())
        except _NoAnswerError as error:
            if not taken:
                raise DynamoctlError(f"etcd: {error}") from None
        return taken

    def put_back(self, lease: str, entries: Mapping[bytes, bytes]) -> None:
        """Register again what was taken out.

        Raises:
            DynamoctlError: etcd does not answer, or the lease has run out.
        """
        try:
            for key, value in entries.items():
                body = {"key": _text(key), "value": _text(value), "lease": lease}
                self._first("POST", "/v3/kv/put", body, self._token())
        except _NoAnswerError as error:
            raise DynamoctlError(f"etcd: {error}") from None

    def _range(self, prefix: bytes, limit: int = 0) -> list[tuple[bytes, bytes, str]]:
        """Each key that begins so, its value, and its lease or an empty text."""
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        question = {"key": _text(prefix), "range_end": _text(end), "limit": limit}
        body = self._first("POST", "/v3/kv/range", question, self._token())
        try:
            return [
                (
                    base64.b64decode(one.get("key", "")),
                    base64.b64decode(one.get("value", "")),
                    str(one.get("lease", "")),
                )
                for one in body.get("kvs", [])
            ]
        except (AttributeError, TypeError, ValueError):
            raise _NoAnswerError("what answers there is no etcd") from None

    def _token(self) -> str:
        """What says who asks, where there are a name and a password; else an empty text."""
        if not all(self._login):
            return ""
        name, password = self._login
        said = self._first("POST", "/v3/auth/authenticate", {"name": name, "password": password})
        return str(said.get("token", ""))

    def _first(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str = ""
    ) -> dict[str, Any]:
        """The answer of the first member that gives one."""
        import httpx2  # 7 MB, which supervisors without etcd do not need

        why = "it has no endpoint"
        headers = {"Authorization": token} if token else {}
        with httpx2.Client(verify=self._verify, trust_env=False, timeout=TIMEOUT_S) as http:
            for endpoint in self._endpoints:
                try:
                    answer = http.request(method, endpoint + path, json=body, headers=headers)
                    said = answer.json()
                except httpx2.HTTPError as error:
                    why = _reason(error)
                except ValueError:
                    why = "what answers there is no etcd"
                else:
                    if answer.status_code == 200 and isinstance(said, dict):
                        return said
                    why = str(said.get("error", "")) if isinstance(said, dict) else ""
                    why = why.removeprefix("etcdserver: ") or f"HTTP {answer.status_code}"
        raise _NoAnswerError(why)


class _NoAnswerError(Exception):
    """No member gave an answer; the text says why."""


def _context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=ca)
        with ExitStack() as stack:
            # The library takes files alone; these are in memory.
            context.load_cert_chain(*(_memory_file(text, stack) for text in (certificate, key)))
    except (OSError, ValueError) as error:
        raise PreflightError(
            f"etcd's certificates cannot be used: {error}", f"look at {', '.join(CERTIFICATES)}"
        ) from None
    return context


def _memory_file(text: str, stack: ExitStack) -> str:
    descriptor = os.memfd_create("dynamoctl-etcd")
    stack.callback(os.close, descriptor)
    os.write(descriptor, text.encode())
    return f"/proc/self/fd/{descriptor}"


def _reason(error: httpx2.HTTPError) -> str:
    import httpx2

    if isinstance(error, httpx2.TimeoutException):
        return f"no answer within {TIMEOUT_S:g} s"
    return str(error).lower() or type(error).__name__


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _instances(namespace: str) -> bytes:
    return f"v1/instances/{namespace}/".encode()


def _instance(value: bytes) -> Instance | None:
    try:
        body = json.loads(value)
        address = str(body["transport"]["tcp"]).partition("/")[0]
        return Instance(str(body["component"]), str(body["endpoint"]), address)
    except (ValueError, KeyError, TypeError):
        return None
