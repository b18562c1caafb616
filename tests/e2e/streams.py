"""Requests that are in flight when a worker dies: what each client gets of its answer."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .conftest import Cli


@dataclass
class Answer:
    """What one client has got.

    Attributes:
        status: the HTTP status; 0 without an answer.
        text: all of it.
        chunks: the pieces in which it came, without the last one, which has the finish reason alone.
        tokens: the tokens that the frontend says it has.
        error: what the frontend, or this client, says of a failure.
        ended_at: when it was over, on the clock that does not jump.
    """

    status: int = 0
    text: str = ""
    chunks: int = 0
    tokens: int | None = None
    finish_reason: str | None = None
    error: str = ""
    ended_at: float | None = None

    def take(self, body: dict[str, Any]) -> None:
        """A part of a stream, or a whole answer."""
        if "choices" not in body:
            self.error += json.dumps(body)
        for choice in body.get("choices", ()):
            self.text += choice["text"]
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            self.chunks += choice.get("finish_reason") is None
        if body.get("usage"):
            self.tokens = body["usage"]["completion_tokens"]

    def is_whole(self, tokens: int) -> bool:
        found = (self.status, self.finish_reason, self.tokens, self.error)
        return found == (200, "length", tokens, "")


class InFlight:
    """Clients that ask all at once, each in a thread."""

    def __init__(
        self, endpoint: str, model: str, prompts: Sequence[str], max_tokens: int, *, stream: bool = True
    ) -> None:
        self.answers = [Answer() for _ in prompts]
        body = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
        }
        self._threads = [
            threading.Thread(
                target=_ask, args=(f"{endpoint}/v1/completions", {**body, "prompt": prompt}, one)
            )
            for prompt, one in zip(prompts, self.answers, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def wait_until(self, what: Callable[[Answer], bool], how_many: int, patience_s: float = 120) -> None:
        """Until it holds for so many of the clients. None of them may be through by then."""
        deadline = time.monotonic() + patience_s
        while sum(map(what, self.answers)) < how_many:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.01)
        assert not any(one.ended_at for one in self.answers), "too late: some are through"

    def end(self, patience_s: float) -> list[Answer]:
        """All answers. A client that still waits after that time hangs."""
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), self.answers
        return self.answers


def _ask(url: str, body: dict[str, Any], into: Answer) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            into.status = answer.status
            if not body.get("stream"):
                into.take(json.load(answer))
            else:
                for line in answer:
                    data = line.decode().strip().removeprefix("data: ")
                    if data.startswith("{"):
                        into.take(json.loads(data))
                    elif data != "[DONE]":
                        into.error += data
    except urllib.error.HTTPError as error:
        into.status, into.error = error.code, error.read().decode()
    except OSError as error:
        into.error = repr(error)
    finally:
        into.ended_at = time.monotonic()


def moved(cli: Cli, name: str) -> int:
    """How many requests were moved, as the status says it in JSON and in words."""
    count = cli.status(name)["load"]["moved_requests_total"]
    assert isinstance(count, int)
    assert (f", {count} moved" in cli("status", "-n", name).out) == (count > 0)
    return count
