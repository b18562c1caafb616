"""HTTP to the units: every form of an answer, and what is none."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from dynamoctl.monitoring import loopback_http
from dynamoctl.monitoring.loopback_http import Answer, NoAnswerError

T = TypeVar("T")


def asked(answer: bytes, ask: Callable[[str], Coroutine[Any, Any, T]]) -> tuple[T, bytearray]:
    """What comes of a question to a server that answers so and then hangs up; what it was asked."""
    got = bytearray()

    def serve() -> None:
        line, _ = listener.accept()
        with line, suppress(ConnectionError), line.makefile("rb") as question:
            while (header := question.readline()) not in (b"\r\n", b""):
                got.extend(header)
            length = got.lower().partition(b"content-length: ")[2].split()
            got.extend(header + question.read(int(length[0]) if length else 0))
            line.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        try:
            return asyncio.run(ask(f"http://127.0.0.1:{listener.getsockname()[1]}")), got
        finally:
            server.join()


def get(answer: bytes) -> Answer:
    return asked(answer, lambda origin: loopback_http.ask("GET", f"{origin}/health", timeout_s=5.0))[0]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = b"x" * 200_000


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", 200, b"ok"),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", 503, b""),
        (b"HTTP/1.0 404\r\n\r\nto its end", 404, b"to its end"),
        (CHUNKED + b"2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", 200, b"ab0123456789"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + LONG, 200, LONG),
        (CHUNKED + b"30D40\r\n" + LONG + b"\r\n0\r\n\r\n", 200, LONG),
    ],
)
def test_an_answer(answer: bytes, status: int, body: bytes) -> None:
    assert get(answer) == Answer(status, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + LONG + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        CHUNKED + b"-5\r\nab\r\n",
        CHUNKED + b"5\r\nab",
        CHUNKED + b"2\r\nab\r\n",
        CHUNKED + b"ab\n",
    ],
)
def test_what_is_none(answer: bytes) -> None:
    with pytest.raises(NoAnswerError):
        get(answer)


def test_nobody_is_there() -> None:
    with pytest.raises(NoAnswerError, match="ConnectionRefusedError"):
        asyncio.run(loopback_http.ask("GET", "http://127.0.0.1:1/health"))


def test_silence_is_no_answer() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(NoAnswerError, match="TimeoutError"),
    ):
        asyncio.run(loopback_http.ask("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_s=0.1))


def test_what_is_asked() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    answer, got = asked(
        ok, lambda origin: loopback_http.ask("GET", f"{origin}/v1/models/a b\r\nÄ%20/ready?x=1")
    )
    assert got.startswith(b"GET /v1/models/a%20b%0D%0A%C3%84%20/ready?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert got.endswith(b"\r\nConnection: close\r\n\r\n")
    assert answer.json() == {}
    _, got = asked(ok, lambda origin: loopback_http.ask("POST", origin, {"a": "Ä"}))
    assert got.startswith(b"POST / HTTP/1.1\r\n")
    assert got.endswith(b'Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{"a": "\\u00c4"}')
    _, got = asked(ok, lambda origin: loopback_http.ask("POST", origin))
    assert got.endswith(b"\r\nContent-Length: 0\r\n\r\n")


def test_lines_come_as_they_are_written() -> None:
    async def lines(origin: str) -> list[str]:
        async with loopback_http.stream("POST", origin, {}) as answer:
            return [line async for line in answer.lines()]

    assert asked(CHUNKED + b"3\r\na\nb\r\n4\r\nc\r\nd\r\n0\r\n\r\n", lines)[0] == ["a", "bc", "d"]
