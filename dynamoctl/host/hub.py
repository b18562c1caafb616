"""Requests to the Hugging Face hub, and the proxies that they and the engines' downloads take.

Requests to a deployment's own units take no proxy (`monitoring.loopback_http`).
"""

from __future__ import annotations

import os
from importlib import import_module, util
from typing import Any
from urllib import request
from urllib.parse import urlsplit

from dynamoctl.errors import PreflightError

_TIMEOUT_S = 10.0
# huggingface_hub downloads with httpx, dynamoctl asks with httpx2. Each refuses some proxies that the other
# takes.
_CLIENTS = ("httpx", "httpx2")
_SCHEMES = ("http", "https", "all")


def status(url: str, token: str) -> int:
    """The HTTP status of a file of the hub.

    Raises:
        PreflightError: the proxies, the token or the certificates in the environment cannot be used.
        httpx2.HTTPError: the hub cannot be reached.
        httpx2.InvalidURL: the URL is not valid.
    """
    import httpx2

    require_proxies()
    token = "".join(token.split())  # huggingface_hub drops line ends, too
    if not token.isascii():
        raise PreflightError("HF_TOKEN is not a token of the hub: it has characters that none has", "fix it")
    # Dynamo downloads without SOCKS (ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:fetch_model).
    transport = httpx2.HTTPTransport() if is_socks(proxy_variable(url)) else None
    with httpx2.Client(transport=transport, timeout=_TIMEOUT_S, follow_redirects=True) as client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return client.head(url, headers=headers).status_code


def require_proxies() -> None:
    """Check that the proxies in the environment can be used, by making clients that read them.

    A client cannot be made if one of them is wrong, even if it is not for the hub.

    Raises:
        PreflightError: they cannot be used, or the file with certificates cannot be read.
    """
    for name in _CLIENTS:
        if util.find_spec(name) is None:
            continue
        client = import_module(name)
        try:
            client.Client().close()
        except OSError as error:
            raise PreflightError(
                "the certificates in SSL_CERT_FILE or SSL_CERT_DIR cannot be read:"
                f" {error.strerror or error}",
                "fix the path, or unset the variable",
            ) from None
        except (ImportError, ValueError, client.InvalidURL):
            raise _proxy_error(client) from None


def proxy_variable(url: str) -> str:
    """The variable with the proxy that is meant for this URL; empty if there is none."""
    proxies = _proxies()
    try:
        name, _ = proxies.get(urlsplit(url).scheme) or proxies["all"]
    except (ValueError, KeyError):
        return ""
    return name


def is_socks(variable: str) -> bool:
    """Whether a variable with a proxy has a SOCKS proxy."""
    return os.environ.get(variable, "").strip().lower().startswith("socks")


def _proxies() -> dict[str, tuple[str, str]]:
    """Scheme -> the variable that counts, and its value: as Python reads them, small letters first."""
    found = request.getproxies_environment()
    names = {name.lower(): name for name in sorted(os.environ)}  # sorted: capitals come first
    return {kind: (names[f"{kind}_proxy"], found[kind]) for kind in _SCHEMES if kind in found}


def _proxy_error(client: Any) -> PreflightError:
    """What to say about the first proxy with which no client can be made. It may hold a password."""
    for name, value in _proxies().values():
        try:
            client.Client(proxy=value if "://" in value else f"http://{value}", trust_env=False).close()
        except ImportError:
            return PreflightError(
                f"{name} is a SOCKS proxy, and downloads from the hub cannot take it: the package socksio is"
                " not installed, and Dynamo takes no SOCKS at all",
                f"unset {name} and set HTTPS_PROXY to an http:// proxy; or name a folder with --model PATH",
            )
        except (ValueError, client.InvalidURL):
            return PreflightError(
                f"{name} is not a proxy that can be used",
                f"write it as in {name}=http://HOST:PORT, or unset it",
            )
    return PreflightError("NO_PROXY has an entry that is not a host", "list hosts and domains, with commas")
