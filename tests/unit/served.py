"""Units that answer, without a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from dynamoctl.monitoring import loopback_http


@contextmanager
def served(answer: Callable[[str, Any], str | None]) -> Iterator[None]:
    """Every question is answered so, with 200, from its URL and its body; None: nobody is there."""

    @asynccontextmanager
    async def sent(url: str, question: bytes, timeout_s: float) -> AsyncIterator[asyncio.StreamReader]:
        text = answer(url, json.loads(question.partition(b"\r\n\r\n")[2] or b"null"))
        if text is None:
            raise loopback_http.NoAnswerError("refused")
        reader = asyncio.StreamReader()
        reader.feed_data(f"HTTP/1.1 200 OK\r\n\r\n{text}".encode())
        reader.feed_eof()
        yield reader

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loopback_http, "sent", sent)
        yield
