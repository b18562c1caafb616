"""The answer of `chat --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer


@dataclass(frozen=True)
class ChatAnswer(Answer):
    """The model's answer to one question.

    Attributes:
        name: the deployment.
        model: the model that answered.
        text: the answer.
        prompt_tokens: tokens of the question and of everything before it.
        completion_tokens: tokens of the answer.
        ttft_s: time from the question to the first piece of the answer, seconds.
        seconds: time from the question to the end of the answer, seconds.
        finish_reason: `stop`, or `length` if `--max-tokens` cut the answer off.
    """

    schema: ClassVar[str] = "dynamoctl/chat/v1"

    name: str
    model: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    seconds: float
    finish_reason: str
