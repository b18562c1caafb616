"""The events of a streamed completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def error_in(event: Mapping[str, Any]) -> str:
    """What an event says went wrong; empty if it says nothing of that.

    If a worker ends while it answers, Dynamo's frontend sends such an event and ends the stream as any other.
    """
    error = event.get("error")
    return str(error.get("message", error)) if isinstance(error, dict) else str(error or "")
