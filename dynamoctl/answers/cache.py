"""The answers of `cache check --json` and `cache clear --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dynamoctl.answers.envelope import Answer


@dataclass(frozen=True)
class CacheProbe:
    """What one new prompt did that was asked more than once.

    Attributes:
        prompt_tokens: the prompt's length, tokens.
        hit_tokens: how many of them LMCache returned the last time.
        ttft_first_s: time to the first token the first time, seconds.
        ttft_last_s: time to the first token the last time, seconds.
        prefix_cache_cleared: whether the engines' own prefix caches were emptied in between, so that only
            LMCache could answer.
        same_answer: whether the last answer was that of the first time; None if that cannot be said.
    """

    prompt_tokens: int
    hit_tokens: int
    ttft_first_s: float
    ttft_last_s: float
    prefix_cache_cleared: bool
    same_answer: bool | None


@dataclass(frozen=True)
class CacheCheckAnswer(Answer):
    """LMCache returned what it was given.

    Attributes:
        name: the deployment.
        check: what the prompt did.
    """

    schema: ClassVar[str] = "dynamoctl/cache-check/v1"

    name: str
    check: CacheProbe


@dataclass(frozen=True)
class CacheClearAnswer(Answer):
    """LMCache is empty.

    Attributes:
        name: the deployment.
        cleared: what was emptied: `cpu memory`.
        kept: the tiers that keep what they have, each as its kind and its place.
    """

    schema: ClassVar[str] = "dynamoctl/cache-clear/v1"

    name: str
    cleared: Literal["cpu memory"]
    kept: tuple[str, ...]
