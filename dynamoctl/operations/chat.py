"""A conversation with a running deployment, by way of its OpenAI API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from dynamoctl import policies
from dynamoctl.errors import DynamoctlError, NotReadyError
from dynamoctl.monitoring.events import error_in
from dynamoctl.operations.serving import require_frontend, serving


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        ttft_s: seconds from the question to the first piece of the answer.
        seconds: to its end.
        finish_reason: `stop`, or `length` where `max_tokens` cut it off.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    seconds: float
    finish_reason: str


@dataclass
class Conversation:
    """Questions and answers so far; each question is sent with all of them."""

    endpoint: str
    model: str
    max_tokens: int
    temperature: float
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str, on_text: Callable[[str], None]) -> Reply:
        """Ask, and follow the answer; a question that fails is forgotten.

        Args:
            on_text: called with each piece of the answer as it comes.

        Raises:
            NotReadyError: the deployment does not answer.
            DynamoctlError: it answers with an error.
        """
        asked = [*self.messages, {"role": "user", "content": question}]
        began, first, reason = time.monotonic(), 0.0, ""
        pieces: list[str] = []
        usage: dict[str, int] = {}
        for event in self._events(asked):
            if error := error_in(event):
                raise DynamoctlError(f"the answer broke off: {error}")
            usage = event.get("usage") or usage
            for choice in event.get("choices") or []:
                first = first or time.monotonic() - began
                piece = (choice.get("delta") or {}).get("content") or ""
                reason = choice.get("finish_reason") or reason
                if piece:
                    pieces.append(piece)
                    on_text(piece)
        if not reason:
            raise DynamoctlError("the answer broke off before its end", "see: dynamoctl status")
        text = "".join(pieces)
        self.messages = [*asked, {"role": "assistant", "content": text}]
        tokens = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        return Reply(text, *tokens, first, time.monotonic() - began, reason)

    def _events(self, messages: list[dict[str, str]]) -> Any:
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        url = f"{self.endpoint}/v1/chat/completions"
        try:
            with (
                httpx2.Client(trust_env=False, timeout=policies.COMPLETION_TIMEOUT_S) as http,
                http.stream("POST", url, json=body) as answer,
            ):
                if answer.status_code != 200:
                    text = answer.read().decode(errors="replace").strip()[:300]
                    raise DynamoctlError(f"the deployment answered HTTP {answer.status_code}: {text}")
                for line in answer.iter_lines():
                    if line.startswith("data:") and not line.endswith("[DONE]"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx2.HTTPError as error:
            raise NotReadyError(
                f"the deployment does not answer ({type(error).__name__})", "see: dynamoctl status"
            ) from None
        except ValueError:
            raise DynamoctlError("the deployment's answer is not a stream of events") from None


def begin(name: str, system: str | None, max_tokens: int, temperature: float) -> Conversation:
    """A new conversation with a running deployment.

    Args:
        system: what the model is told before the first question.

    Raises:
        SpecError: nothing of this name runs, or its frontend is on another host.
        NotReadyError: it does not serve now.
    """
    state = serving(name)
    require_frontend(state)
    told = [{"role": "system", "content": system}] if system else []
    return Conversation(state.endpoint, state.model, max_tokens, temperature, told)
