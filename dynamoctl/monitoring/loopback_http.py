"""HTTP to a deployment's own units: one question a connection, no TLS, no proxy.

h11 writes and reads it. A client with all that units do not need (TLS, proxies, pools) takes 7 MB in every
supervisor, and several times as much of the CPU for each of the questions that every unit is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import h11

from dynamoctl import policies

TIMEOUT_S = policies.PROBE_TIMEOUT_S
_PIECE = 65536
# What stands for itself in a path and a query (RFC 3986), and what is quoted already.
_KEPT = "%/?:@!$&'()*+,;=~"

_T = TypeVar("_T")


class NoAnswerError(Exception):
    """Nothing came back that is HTTP; the text says why, in a word."""


@dataclass(frozen=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)


class Stream:
    """An answer whose body may still be on its way.

    Attributes:
        status: 200 and so on.
    """

    status: int

    def __init__(self, http: h11.Connection, reader: asyncio.StreamReader, timeout_s: float) -> None:
        self._http = http
        self._reader = reader
        self._timeout_s = timeout_s

    async def begin(self) -> None:
        """Read how it begins.

        Raises:
            NoAnswerError: it is no HTTP, broke off, or did not come in time.
        """
        while not isinstance(event := await self._next(), h11.Response):
            pass  # 100 and the like
        self.status = event.status_code

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            NoAnswerError: it broke off, or nothing more came in time.
        """
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def lines(self) -> AsyncIterator[str]:
        """The body's lines as they come, without their ends.

        Raises:
            NoAnswerError: as `pieces`.
        """
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").rstrip("\r")
        if rest:
            yield rest.decode(errors="replace")

    async def _next(self) -> h11.Event:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await _within(self._timeout_s, self._reader.read(_PIECE)))
        except h11.RemoteProtocolError:
            raise NoAnswerError("no HTTP") from None
        assert not isinstance(event, type)  # PAUSED comes where a connection is asked a second question
        return event


async def ask(method: str, url: str, body: object = None, timeout_s: float = TIMEOUT_S) -> Answer:
    """One question and its whole answer.

    Args:
        body: sent as JSON, unless it is None.
        timeout_s: how long each part of the answer may take.

    Raises:
        NoAnswerError: there is none.
    """
    async with stream(method, url, body, timeout_s) as answer:
        return Answer(answer.status, b"".join([piece async for piece in answer.pieces()]))


@asynccontextmanager
async def stream(
    method: str, url: str, body: object = None, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[Stream]:
    """The same, with the body to be read as it comes."""
    http = h11.Connection(h11.CLIENT)
    async with sent(url, _question(http, method, url, body), timeout_s) as reader:
        answer = Stream(http, reader, timeout_s)
        await answer.begin()
        yield answer


async def says_anything(url: str) -> bool:
    """Whether anything comes back, whatever it says."""
    question = _question(h11.Connection(h11.CLIENT), "GET", url, None)
    try:
        async with sent(url, question, TIMEOUT_S) as reader:
            return bool(await _within(TIMEOUT_S, reader.read(1)))
    except NoAnswerError:
        return False


@asynccontextmanager
async def sent(url: str, question: bytes, timeout_s: float) -> AsyncIterator[asyncio.StreamReader]:
    """A connection to the URL's host on which this has been written, and what comes back on it."""
    parts = urlsplit(url)
    opening = asyncio.open_connection(parts.hostname, parts.port or 80)
    reader, writer = await _within(timeout_s, opening)
    try:
        writer.write(question)
        yield reader
    finally:
        writer.close()


def _question(http: h11.Connection, method: str, url: str, body: object) -> bytes:
    path = quote(url.partition("//")[2].partition("/")[2], safe=_KEPT)
    data = b"" if body is None else json.dumps(body).encode()
    headers = [("Host", urlsplit(url).netloc), ("Connection", "close")]
    if method != "GET":
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    events = (
        h11.Request(method=method, target=f"/{path}", headers=headers),
        h11.Data(data),
        h11.EndOfMessage(),
    )
    return b"".join(http.send(event) or b"" for event in events)


async def _within(seconds: float, what: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await what
    except OSError as error:
        raise NoAnswerError(type(error).__name__) from None
