"""A conversation: what is sent, what comes of the stream, what a failure leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from dynamoctl.errors import DynamoctlError, NotReadyError
from dynamoctl.operations.chat import Conversation


def piece(text: str | None = None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
GOOD = [piece("Par"), piece("is."), piece(reason="stop"), USAGE]


@dataclass
class Endpoint:
    """An endpoint that streams these events; what it was asked."""

    url: str = ""
    status: int = 200
    events: list[dict[str, Any]] = field(default_factory=lambda: list(GOOD))
    asked: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    one = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            one.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(one.status)
            self.end_headers()
            for event in one.events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        one.url = f"http://127.0.0.1:{server.server_port}"
        yield one
        server.shutdown()


def talk(endpoint: Endpoint) -> Conversation:
    told = [{"role": "system", "content": "Be brief."}]
    return Conversation(endpoint.url, "qwen", 32, 0.0, told)


def test_an_answer_comes_in_pieces_with_its_figures(endpoint: Endpoint) -> None:
    pieces: list[str] = []
    reply = talk(endpoint).ask("Which city?", pieces.append)
    assert pieces == ["Par", "is."]
    assert (reply.text, reply.finish_reason) == ("Paris.", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (9, 2)
    assert 0 < reply.ttft_s <= reply.seconds
    (asked,) = endpoint.asked
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("qwen", 32, 0.0)


def test_each_question_goes_with_all_that_was_said(endpoint: Endpoint) -> None:
    conversation = talk(endpoint)
    for question in ("Which city?", "Why?"):
        conversation.ask(question, lambda _: None)
    said = [(one["role"], one["content"]) for one in endpoint.asked[1]["messages"]]
    assert said == [
        ("system", "Be brief."), ("user", "Which city?"), ("assistant", "Paris."), ("user", "Why?"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "events", "says"),
    [
        (200, [piece("Par"), {"error": {"message": "Internal server error"}}], "Internal server error"),
        (200, [piece("Par")], "broke off before its end"),
        (503, [{"error": "no worker"}], "HTTP 503"),
    ],
)
def test_a_question_that_fails_is_said_and_forgotten(
    endpoint: Endpoint, status: int, events: list[dict[str, Any]], says: str
) -> None:
    conversation = talk(endpoint)
    endpoint.status, endpoint.events = status, events
    with pytest.raises(DynamoctlError, match=says):
        conversation.ask("Which city?", lambda _: None)
    assert len(conversation.messages) == 1


def test_nobody_there_is_not_ready() -> None:
    with pytest.raises(NotReadyError, match="does not answer"):
        Conversation("http://127.0.0.1:9", "qwen", 32, 0.0).ask("Hello", lambda _: None)
