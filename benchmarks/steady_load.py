"""A steady load of streaming requests, and what each client has got. One thread and one event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 120.0
_HEAD = "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"


@dataclass
class Stream:
    """What one client has got.

    Attributes:
        asked_at: when it was sent, as `time.monotonic()` has it.
        status: the HTTP status; 0 without an answer.
        arrivals: when each piece of text came, in seconds since `asked_at`.
        tokens: how many the frontend says there are.
        error: what the frontend, or this client, says of a failure.
    """

    asked_at: float
    status: int = 0
    arrivals: list[float] = field(default_factory=list)
    tokens: int | None = None
    finish_reason: str | None = None
    error: str = ""

    def is_whole(self, tokens: int) -> bool:
        """Whether each token came, and came once: a mocker sends each by itself."""
        said = (self.status, self.finish_reason, self.tokens, self.error)
        return said == (200, "length", tokens, "") and len(self.arrivals) == tokens

    @property
    def longest_gap_s(self) -> float:
        """The longest time between two pieces of text."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max((later - earlier for earlier, later in pairs), default=0.0)

    def __str__(self) -> str:
        return f"{self.status} {self.finish_reason} {len(self.arrivals)}/{self.tokens} {self.error}".strip()

    def take(self, line: bytes) -> None:
        """One line of the answer."""
        if not line.startswith(b"data: {"):
            return
        body: dict[str, Any] = json.loads(line[6:])
        if "choices" not in body:
            self.error += json.dumps(body)
        for choice in body.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if choice.get("finish_reason") is None:
                self.arrivals.append(time.monotonic() - self.asked_at)
        if body.get("usage"):
            self.tokens = body["usage"]["completion_tokens"]


class SteadyLoad:
    """So many requests a second, until `end`.

    Args:
        endpoint: the frontend's base URL.
        tokens: how many each request asks for.

    Attributes:
        streams: all of them, in the order in which they were sent.
    """

    def __init__(self, endpoint: str, model: str, per_second: float, tokens: int) -> None:
        self.streams: list[Stream] = []
        self._address, self._model = urlsplit(endpoint), model
        self._pause_s, self._tokens = 1 / per_second, tokens
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def end(self) -> list[Stream]:
        """Send no more, and wait for the answers."""
        self._over.set()
        self._thread.join(2 * PATIENCE_S)
        return self.streams

    async def _run(self) -> None:
        asked: set[asyncio.Task[None]] = set()
        at = time.monotonic()
        while not self._over.is_set():
            one = Stream(time.monotonic())
            self.streams.append(one)
            asked.add(asyncio.create_task(self._ask(one, len(self.streams))))
            at += self._pause_s
            await asyncio.sleep(max(0.0, at - time.monotonic()))
        await asyncio.gather(*asked)

    async def _ask(self, into: Stream, number: int) -> None:
        body = {
            "model": self._model,
            "prompt": f"Story number {number}. Once upon a time",
            "max_tokens": self._tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._stream(json.dumps(body).encode(), into)
        except (OSError, ValueError, TimeoutError) as error:
            into.error += repr(error)

    async def _stream(self, body: bytes, into: Stream) -> None:
        host, port = self._address.hostname or "", self._address.port
        reader, writer = await asyncio.open_connection(host, port)
        head = _HEAD.format(host=host) + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        into.status = int((await reader.readline()).split()[1])
        # The sizes of chunks are lines too, which none of ours looks like.
        async for line in reader:
            if into.status != 200:
                into.error += line.decode(errors="replace").strip()
            into.take(line)
        writer.close()
