"""A client for a running etcd, over its HTTP gateway (etcd 3.4 and later).

It reads registrations, revokes leases, and deletes and restores registrations of Dynamo processes. It also
writes one record for each host of a deployment, below `v1/dynamoctl/`, which no Dynamo process reads.

Each call makes one attempt, which blocks for some seconds at most. User name, password and certificates come
from the variables that Dynamo reads: ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD, or ETCD_AUTH_CA,
ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.humanize import path_of

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 3.0
CERTIFICATES = ("ETCD_AUTH_CA", "ETCD_AUTH_CLIENT_CERT", "ETCD_AUTH_CLIENT_KEY")
_BEGIN = "-----BEGIN"
# Prefix of all keys of Dynamo's discovery (1.4).
_ROOT = b"v1/"


@dataclass(frozen=True)
class Instance:
    """A registered endpoint of a component, and the address at which it takes requests."""

    component: str
    endpoint: str
    address: str


def with_certificates(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with the certificates and the key as PEM text.

    Dynamo 1.4 reads the text itself from these variables, but its documentation says a path. dynamoctl takes
    both.

    Raises:
        PreflightError: a file cannot be read.
    """
    with_texts = dict(environ)
    for name in CERTIFICATES:
        value = environ.get(name, "")
        if not value or value.lstrip().startswith(_BEGIN):
            continue
        try:
            with_texts[name] = path_of(value).read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a text file"
            raise PreflightError(
                f"{name}: cannot read {value}: {why}", "set it to the path of a PEM file, or to its text"
            ) from None
    return with_texts


class Etcd:
    """One etcd cluster; each request goes to its members in turn until one answers.

    Args:
        endpoints: the members' URLs.
        environ: the units' environment.

    Raises:
        PreflightError: a certificate cannot be used.
    """

    def __init__(self, endpoints: Sequence[str], environ: Mapping[str, str]) -> None:
        self._endpoints = endpoints
        self._login = (environ.get("ETCD_AUTH_USERNAME", ""), environ.get("ETCD_AUTH_PASSWORD", ""))
        self._tls: ssl.SSLContext | None = None
        texts = with_certificates(environ)
        if all(texts.get(name) for name in CERTIFICATES):
            self._tls = _context(*(texts[name] for name in CERTIFICATES))

    def answers(self) -> tuple[bool, str]:
        """Whether etcd can be used: (usable, why not)."""
        try:
            if not all(self._login):
                body = self._first("GET", "/health")
                # A string in etcd 3.4, a boolean in other versions.
                healthy = str(body.get("health")).lower() == "true"
                return healthy, "" if healthy else "it is not healthy: it may have no leader"
            self._range(_ROOT, 1)
        except _NoAnswerError as error:
            return False, str(error)
        return True, ""

    def instances(self, namespace: str) -> list[Instance] | None:
        """The instances registered in a Dynamo namespace; None if etcd does not answer."""
        values = self.registrations("instances", namespace)
        if values is None:
            return None
        instances = filter(None, map(_instance, values))
        return sorted(instances, key=lambda instance: (instance.component, instance.address))

    def registrations(self, kind: str, namespace: str) -> list[bytes] | None:
        """The registrations of a kind in a Dynamo namespace; None if etcd does not answer.

        Args:
            kind: `instances`, `mdc` (model cards), or `dynamoctl` (records of hosts).
        """
        try:
            return [value for _, value, _ in self._range(_prefix(kind, namespace))]
        except _NoAnswerError:
            return None

    def publish(self, namespace: str, name: str, value: bytes, ttl_s: int) -> str:
        """Write a record of this host, which etcd deletes `ttl_s` seconds after the last `renew`.

        Returns:
            Its lease.

        Raises:
            DynamoctlError: etcd does not answer.
        """
        try:
            lease = str(self._first("POST", "/v3/lease/grant", {"TTL": ttl_s}, self._token()).get("ID", ""))
        except _NoAnswerError as error:
            raise DynamoctlError(f"etcd: {error}") from None
        self.put_back(lease, {_prefix("dynamoctl", namespace) + name.encode(): value})
        return lease

    def renew(self, lease: str) -> bool:
        """Renew a lease; return whether it had not expired.

        Raises:
            DynamoctlError: etcd does not answer.
        """
        try:
            answer = self._first("POST", "/v3/lease/keepalive", {"ID": lease}, self._token())
        except _NoAnswerError as error:
            raise DynamoctlError(f"etcd: {error}") from None
        result = answer.get("result")
        return isinstance(result, dict) and str(result.get("TTL", "0")) != "0"

    def leases(self, namespace: str) -> dict[str, str]:
        """Lease -> address of the instance registered under it; empty if etcd does not answer."""
        try:
            entries = self._range(_prefix("instances", namespace))
        except _NoAnswerError:
            return {}
        instances = {lease: _instance(value) for _, value, lease in entries if lease not in ("", "0")}
        return {lease: instance.address for lease, instance in instances.items() if instance is not None}

    def revoke(self, lease: str) -> None:
        """Revoke a lease, which deletes the keys under it. Does nothing if etcd does not answer."""
        with suppress(_NoAnswerError):
            self._first("POST", "/v3/lease/revoke", {"ID": lease}, self._token())

    def take_out(self, lease: str) -> dict[bytes, bytes]:
        """Delete the keys under a lease, but keep the lease.

        Returns:
            Key -> value. Includes keys whose deletion etcd did not confirm: they may be deleted.

        Raises:
            DynamoctlError: etcd does not list the keys.
        """
        taken: dict[bytes, bytes] = {}
        try:
            for key, value, lease_of_key in self._range(_ROOT):
                if lease_of_key == lease:
                    taken[key] = value
                    self._first("POST", "/v3/kv/deleterange", {"key": _text(key)}, self._token())
        except _NoAnswerError as error:
            if not taken:
                raise DynamoctlError(f"etcd: {error}") from None
        return taken

    def put_back(self, lease: str, entries: Mapping[bytes, bytes]) -> None:
        """Write keys under a lease, such as those that `take_out` returned.

        Raises:
            DynamoctlError: etcd does not answer, or the lease has expired.
        """
        try:
            for key, value in entries.items():
                body = {"key": _text(key), "value": _text(value), "lease": lease}
                self._first("POST", "/v3/kv/put", body, self._token())
        except _NoAnswerError as error:
            raise DynamoctlError(f"etcd: {error}") from None

    def _range(self, prefix: bytes, limit: int = 0) -> list[tuple[bytes, bytes, str]]:
        """(key, value, lease) of each key with a prefix; the lease is empty if the key has none."""
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        request = {"key": _text(prefix), "range_end": _text(end), "limit": limit}
        body = self._first("POST", "/v3/kv/range", request, self._token())
        try:
            return [
                (
                    base64.b64decode(entry.get("key", "")),
                    base64.b64decode(entry.get("value", "")),
                    str(entry.get("lease", "")),
                )
                for entry in body.get("kvs", [])
            ]
        except (AttributeError, TypeError, ValueError):
            raise _NoAnswerError("what answers there is not an etcd") from None

    def _token(self) -> str:
        """An authentication token if user name and password are set, otherwise an empty string."""
        if not all(self._login):
            return ""
        name, password = self._login
        answer = self._first("POST", "/v3/auth/authenticate", {"name": name, "password": password})
        return str(answer.get("token", ""))

    def _first(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str = ""
    ) -> dict[str, Any]:
        """The answer of the first member that gives one.

        Raises:
            _NoAnswerError: no member gives one.
        """
        import httpx2  # takes 7 MB, which supervisors without etcd do not need

        why = "it has no endpoint"
        headers = {"Authorization": token} if token else {}
        tls = self._tls or _default_context()
        with httpx2.Client(verify=tls, trust_env=False, timeout=TIMEOUT_S) as http:
            for endpoint in self._endpoints:
                try:
                    answer = http.request(method, endpoint + path, json=body, headers=headers)
                    content = answer.json()
                except httpx2.HTTPError as error:
                    why = _reason(error)
                except ValueError:
                    why = "what answers there is not an etcd"
                else:
                    if answer.status_code == 200 and isinstance(content, dict):
                        return content
                    why = str(content.get("error", "")) if isinstance(content, dict) else ""
                    why = why.removeprefix("etcdserver: ") or f"HTTP {answer.status_code}"
        raise _NoAnswerError(why)


class _NoAnswerError(Exception):
    """No member gave an answer; the text says why."""


@cache
def _default_context() -> ssl.SSLContext:
    """Made once: a client without it reads all certificates of the host for each request."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)


def _context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=ca)
        with ExitStack() as stack:
            # The ssl module only takes files here, so the texts go to files in memory.
            context.load_cert_chain(*(_memory_file(text, stack) for text in (certificate, key)))
    except (OSError, ValueError) as error:
        raise PreflightError(
            f"etcd's certificates cannot be used: {error}", f"check {', '.join(CERTIFICATES)}"
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


def _prefix(kind: str, namespace: str) -> bytes:
    return f"v1/{kind}/{namespace}/".encode()


def _instance(value: bytes) -> Instance | None:
    try:
        body = json.loads(value)
        address = str(body["transport"]["tcp"]).partition("/")[0]
        return Instance(str(body["component"]), str(body["endpoint"]), address)
    except (ValueError, KeyError, TypeError):
        return None
