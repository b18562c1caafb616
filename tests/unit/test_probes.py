"""Whether a unit gives a sign of life: any is one, and silence is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from dynamoctl.monitoring import loopback_http, probes
from dynamoctl.planner.plan import Gate

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def asked(handler: Handler | None) -> bool:
    """What the probe says of a server that does so; None: there is none."""

    async def ask() -> bool:
        served = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert handler is not None
            await handler(reader, writer)
            writer.close()
            await writer.wait_closed()
            served.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        gate = Gate("http", server.sockets[0].getsockname()[1], "/health")
        if handler is None:
            server.close()
            return await probes.answers(gate)
        async with server:
            lives = await probes.answers(gate)
            await served.wait()
        return lives

    return asyncio.run(ask())


async def _ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    assert request.startswith(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def _error(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def _is_frozen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the one who asked has had enough


@pytest.mark.parametrize(
    ("handler", "lives"),
    [(_ok, True), (_error, True), (_hangs_up, False), (_is_frozen, False), (None, False)],
)
def test_a_sign_of_life(handler: Handler | None, lives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_http, "TIMEOUT_S", 0.5)
    assert asked(handler) is lives
