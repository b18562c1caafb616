"""Probes of units and services. Each probe makes one attempt.

A probe neither retries nor waits; a gate does that, with its deadline.
"""

from __future__ import annotations

import os.path
import socket
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from dynamoctl import policies
from dynamoctl.lmcache.remote_stores import Store
from dynamoctl.monitoring import loopback_http
from dynamoctl.monitoring.loopback_http import NoAnswerError
from dynamoctl.planner.plan import Gate

# Prefixes of the reasons from `gate_is_open` that mean: the unit answered, but is not ready.
ANSWERS = ("HTTP", "generate:", "no endpoint generate")
STORE_TIMEOUT_S = 3.0
# What `store_answers` says of a store that closes no connection by it.
SILENT = (f"no answer within {STORE_TIMEOUT_S:g} s", "nothing answers there")
NATS_PORT = 4222


async def gate_is_open(gate: Gate) -> tuple[bool, str]:
    """Whether the unit behind a gate reports ready: (ready, its answer in a few words)."""
    try:
        answer = await loopback_http.ask("GET", f"{gate.origin}{gate.path}")
        if gate.kind == "endpoint":
            status = answer.json()["endpoints"]["generate"]
            return status == "ready", f"generate: {status}"
    except NoAnswerError as error:
        return False, str(error)
    except (ValueError, KeyError, TypeError):
        return False, "no endpoint generate"
    return answer.status == 200, f"HTTP {answer.status}"


async def answers(gate: Gate) -> bool:
    """Whether a unit sends any answer at all."""
    return await loopback_http.says_anything(f"{gate.origin}{gate.path}")


async def get_json(url: str) -> dict[str, Any] | None:
    """The JSON object at a URL; None if there is no answer or it is not a JSON object."""
    try:
        body = (await loopback_http.ask("GET", url)).json()
    except (NoAnswerError, ValueError):
        return None
    return body if isinstance(body, dict) else None


async def get_text(url: str) -> str:
    """The text at a URL; empty if the status is not 200."""
    try:
        answer = await loopback_http.ask("GET", url)
    except NoAnswerError:
        return ""
    return answer.text if answer.status == 200 else ""


async def lists_model(endpoint: str, model: str) -> tuple[bool, str]:
    """Whether the frontend serves the model: (serves, why not).

    `/v1/models/{id}/ready` answers 200 in both cases (Dynamo 1.4; 503 from 1.6 on), so the body decides.
    """
    missing = f"the frontend does not list {model}"
    body = await get_json(f"{endpoint}/v1/models/{quote(model)}/ready")
    if body is None:
        return False, missing
    if body.get("ready") is True:
        return True, ""
    return False, str(body.get("reason") or missing)


async def complete(endpoint: str, model: str, prompt: str = "The capital of France is") -> tuple[bool, str]:
    """Request a completion of a few tokens: (whether tokens came, why not).

    A model that is served for chat alone (`--endpoint-types chat`, `--use-vllm-tokenizer`) gets it as a chat.
    """
    request = {"model": model, "max_tokens": 4, "temperature": 0}
    try:
        answer = await _generate(f"{endpoint}/v1/completions", {**request, "prompt": prompt})
        if answer.status == HTTPStatus.NOT_FOUND:
            chat = {**request, "messages": [{"role": "user", "content": prompt}]}
            answer = await _generate(f"{endpoint}/v1/chat/completions", chat)
    except NoAnswerError as error:
        return False, f"no answer to a completion ({error})"
    if answer.status != HTTPStatus.OK:
        return False, f"a completion got HTTP {answer.status}: {answer.text[:200]}"
    try:
        tokens = answer.json()["usage"]["completion_tokens"]
    except (ValueError, KeyError, TypeError):
        return False, f"a completion got no tokens: {answer.text[:200]}"
    return bool(tokens), "" if tokens else "a completion came back empty"


async def _generate(url: str, request: dict[str, Any]) -> loopback_http.Answer:
    return await loopback_http.ask("POST", url, request, policies.COMPLETION_TIMEOUT_S)


def nats_answers(url: str) -> tuple[bool, str]:
    """Whether a NATS server answers: (answers, why not). NATS sends INFO first, before any login."""
    server = urlsplit(url if "://" in url else f"nats://{url}")
    try:
        with socket.create_connection(
            (server.hostname or "localhost", server.port or NATS_PORT), timeout=STORE_TIMEOUT_S
        ) as connection:
            greeting = connection.recv(4)
    except (OSError, ValueError) as error:
        return False, (getattr(error, "strerror", None) or str(error)).lower()
    return (True, "") if greeting == b"INFO" else (False, "what answers there is not a NATS server")


def store_answers(store: Store) -> tuple[bool, str]:
    """Whether LMCache's remote store can be used: (usable, why not). Blocks for some seconds at most.

    A Redis gets a PING, with its user name and password, and must have room: LMCache's client does not read
    an error reply to its end, and what follows on that connection fails (lmcache 0.5.6). For any other store,
    the probe only tells whether a process listens.
    """
    if store.scheme in ("redis", "rediss", "unix"):
        try:
            import redis
        except ImportError:
            pass
        else:
            return _redis_answers(store, redis)
    if store.kind.named:  # nothing of it is known to listen
        return True, ""
    if store.kind.local:
        exists = os.path.exists(store.path)  # noqa: PTH110  (pathlib's raises for a name that is too long)
        return exists, "" if exists else "there is no such path"
    why = ""
    for host, port in store.addresses:
        try:
            with socket.create_connection((host, port), timeout=STORE_TIMEOUT_S):
                return True, ""
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
        except UnicodeError:
            why = f"{host} is not the name of a host"
    return False, why.lower()


def store_run(store: Store) -> str:
    """What tells this run of a Redis from its next one; empty for other stores, and if it does not say."""
    if store.scheme not in ("redis", "rediss", "unix"):
        return ""
    try:
        import redis

        # Longer than for a PING: one that was frozen has much to do at first.
        with redis.Redis.from_url(store.url, socket_timeout=5 * STORE_TIMEOUT_S) as client:
            return str(client.info("server")["run_id"])
    except Exception:  # redis-py is not there, the user may not ask, or the store is gone again
        return ""


def _redis_answers(store: Store, redis: Any) -> tuple[bool, str]:
    try:
        with redis.Redis.from_url(
            store.url, socket_timeout=STORE_TIMEOUT_S, socket_connect_timeout=STORE_TIMEOUT_S
        ) as client:
            client.ping()
            if _is_full(client, redis):
                return False, "it is full and evicts nothing (maxmemory-policy noeviction)"
    except redis.AuthenticationError:
        return False, "it rejects the user name or password"
    except redis.TimeoutError:
        return False, SILENT[0]
    except redis.ConnectionError:
        return False, SILENT[1]
    except (redis.RedisError, ValueError, OSError) as error:
        return False, type(error).__name__
    return True, ""


def _is_full(client: Any, redis: Any) -> bool:
    """Whether a Redis has less than a tenth of its memory left and keeps what it has."""
    try:
        memory = client.info("memory")
    except redis.ResponseError:  # the user may not ask
        return False
    most = int(memory.get("maxmemory", 0))
    keeps = memory.get("maxmemory_policy") == "noeviction"
    return most > 0 and keeps and int(memory["used_memory"]) > 0.9 * most
