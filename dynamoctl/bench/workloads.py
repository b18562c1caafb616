"""Workloads of a benchmark: passes of prompts, generated from a seed. Pure.

A prompt is a sequence of blocks of `BLOCK` tokens. Each block has a number; equal numbers stand for equal
text. Prompts that begin with the same numbers share a prefix, which is all that a KV cache depends on. Traces
of real services are published in this form (Mooncake's, Qwen's), and load generators turn it into text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest

BLOCK = 16
# Length of the question at the end of a document; it differs each time.
_QUESTION_BLOCKS = 2
# A block's text has one of these words per token: most tokenizers encode each, with its space, as a token.
_WORDS = (
    "the", "time", "way", "day", "man", "year", "work", "place", "part", "case", "week", "group",
    "fact", "hand", "life", "point", "house", "water", "room", "money", "story", "month", "night",
    "home", "side", "book", "word", "body", "face", "door", "line", "end", "city", "name", "team",
    "minute", "idea", "head", "light", "voice", "food", "power", "game", "road", "table", "street",
    "river", "sea", "sun", "wind", "stone", "tree", "bird", "horse", "field", "garden", "summer",
    "winter", "morning", "king", "ship", "music", "colour",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One prompt, and the number of output tokens to request."""

    blocks: tuple[int, ...]
    output_tokens: int

    @property
    def input_tokens(self) -> int:
        """Length of the prompt. The engine tokenizes the text, so its count differs by a few percent."""
        return len(self.blocks) * BLOCK


@dataclass(frozen=True)
class Pass:
    """Requests that are measured together.

    Attributes:
        forget: whether the engines' own prefix caches must be cleared before the pass.
    """

    label: str
    requests: tuple[Request, ...]
    forget: bool = False


class Workload(Protocol):
    """A workload. Users can set each of its fields, which are numbers."""

    kind: ClassVar[str]

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """The requests, in passes; the same seed gives the same requests."""

    def __str__(self) -> str:
        """A short description for people."""


@dataclass(frozen=True)
class Reuse:
    """Long documents, each sent again after the engine's own prefix cache has dropped it.

    Attributes:
        documents: number of documents.
        document_tokens: length of each document, in tokens.
        passes: number of questions about each document.
        output_tokens: length of an answer, in tokens.
    """

    kind: ClassVar[str] = "reuse"
    documents: int = 8
    document_tokens: int = 1024
    passes: int = 2
    output_tokens: int = 16

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """One pass per question, in the same order: the next document is always the least recently used."""
        new = _blocks(seed)
        documents = [_take(new, _whole(self.document_tokens)) for _ in range(self.documents)]
        return tuple(
            Pass(
                "first" if number == 0 else "again" if self.passes == 2 else f"again {number}",
                tuple(
                    Request((*document, *_take(new, _QUESTION_BLOCKS)), self.output_tokens)
                    for document in documents
                ),
                forget=number > 0,
            )
            for number in range(self.passes)
        )

    def __str__(self) -> str:
        return f"{self.documents} documents of {self.document_tokens:,} tokens, {self.passes} passes"


@dataclass(frozen=True)
class MultiTurn:
    """Conversations, in which each turn is sent with all earlier turns.

    Attributes:
        conversations: number of concurrent conversations.
        turns: number of turns of each conversation.
        first_tokens: length of the first question with the system prompt, in tokens.
        turn_tokens: length of each later question, in tokens.
        output_tokens: length of an answer, in tokens. (The next turn repeats a made-up answer.)
    """

    kind: ClassVar[str] = "multi-turn"
    conversations: int = 4
    turns: int = 3
    first_tokens: int = 512
    turn_tokens: int = 64
    output_tokens: int = 32

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """One pass per turn."""
        new = _blocks(seed)
        prompts = [_take(new, _whole(self.first_tokens)) for _ in range(self.conversations)]
        passes = []
        for turn in range(self.turns):
            if turn:
                more = _whole(self.output_tokens) + _whole(self.turn_tokens)
                prompts = [(*prompt, *_take(new, more)) for prompt in prompts]
            requests = tuple(Request(prompt, self.output_tokens) for prompt in prompts)
            passes.append(Pass(f"turn {turn + 1}", requests))
        return tuple(passes)

    def __str__(self) -> str:
        return (
            f"{self.conversations} conversations of {self.turns} turns,"
            f" {self.first_tokens:,} tokens in the first turn and {self.turn_tokens:,} in each later one"
        )


@dataclass(frozen=True)
class SharedPrefix:
    """Prompts with a shared prefix, such as one system prompt, and different suffixes.

    Attributes:
        requests: number of requests.
        prefixes: number of different prefixes.
        prefix_tokens: length of a prefix, in tokens.
        suffix_tokens: length of a suffix, in tokens.
        output_tokens: length of an answer, in tokens.
    """

    kind: ClassVar[str] = "shared-prefix"
    requests: int = 16
    prefixes: int = 2
    prefix_tokens: int = 512
    suffix_tokens: int = 64
    output_tokens: int = 32

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """One pass, in which the prefixes alternate."""
        new = _blocks(seed)
        prefixes = [_take(new, _whole(self.prefix_tokens)) for _ in range(self.prefixes)]
        return (
            Pass(
                "all",
                tuple(
                    Request(
                        (*prefixes[number % self.prefixes], *_take(new, _whole(self.suffix_tokens))),
                        self.output_tokens,
                    )
                    for number in range(self.requests)
                ),
            ),
        )

    def __str__(self) -> str:
        return (
            f"{self.requests} requests with a shared prefix of {self.prefix_tokens:,} tokens"
            f" ({self.prefixes} different prefixes) and {self.suffix_tokens:,} tokens of their own"
        )


@dataclass(frozen=True)
class Random:
    """Prompts without a common prefix: the cost of everything when no cache helps.

    Attributes:
        requests: number of requests.
        input_tokens: length of each prompt, in tokens.
        output_tokens: length of an answer, in tokens.
    """

    kind: ClassVar[str] = "random"
    requests: int = 16
    input_tokens: int = 512
    output_tokens: int = 32

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """One pass."""
        new = _blocks(seed)
        return (
            Pass(
                "all",
                tuple(
                    Request(_take(new, _whole(self.input_tokens)), self.output_tokens)
                    for _ in range(self.requests)
                ),
            ),
        )

    def __str__(self) -> str:
        return f"{self.requests} requests of {self.input_tokens:,} tokens without a common prefix"


KINDS: dict[str, type[Reuse] | type[MultiTurn] | type[SharedPrefix] | type[Random]] = {
    kind.kind: kind for kind in (Reuse, MultiTurn, SharedPrefix, Random)
}


def make(kind: str, sizes: Sequence[str]) -> Workload:
    """A workload of this kind.

    Args:
        kind: a key of `KINDS`.
        sizes: values for its fields, as in `documents=8`; other fields keep their defaults.

    Raises:
        SpecError: the workload has no such field, or the value is not a number from 1 on.
    """
    chosen = KINDS[kind]
    given: dict[str, int] = {}
    for word in sizes:
        name, _, number = word.partition("=")
        name = name.strip().replace("-", "_")
        if name not in chosen.__dataclass_fields__:
            known = [field.replace("_", "-") for field in chosen.__dataclass_fields__]
            raise SpecError(
                f"the workload {kind} has no '{name.replace('_', '-')}'",
                nearest(name.replace("_", "-"), known) or f"known are: {', '.join(known)}",
            )
        if not number.strip().isdecimal() or int(number) < 1:
            raise SpecError(f"'{word}' does not set a number from 1 on", f"as in: {name.replace('_', '-')}=8")
        given[name] = int(number)
    return chosen(**given)


def as_json(workload: Workload, seed: int) -> dict[str, Any]:
    """The workload as part of a result."""
    numbers: dict[str, Any] = asdict(workload)  # type: ignore[call-overload]  # all workloads are dataclasses
    return {"kind": workload.kind, "seed": seed, **numbers}


def trace(requests: Sequence[Request]) -> str:
    """Requests as a trace in Mooncake's format (JSON Lines), all with the timestamp 0."""
    return "".join(
        json.dumps(
            {
                "timestamp": 0,
                "input_length": request.input_tokens,
                "output_length": request.output_tokens,
                "hash_ids": request.blocks,
            }
        )
        + "\n"
        for request in requests
    )


def text_trace(requests: Sequence[Request]) -> str:
    """As `trace`, but with the text, for a load generator that makes a new text from a block each time."""
    return "".join(
        json.dumps({"text_input": text(request), "output_length": request.output_tokens}) + "\n"
        for request in requests
    )


def text(request: Request) -> str:
    """The prompt's text."""
    return "".join(
        f" {word}"
        for block in request.blocks
        for word in random.Random(block).choices(_WORDS, k=BLOCK)  # noqa: S311  (no secret)
    )


def _blocks(seed: int) -> Iterator[int]:
    """Block numbers without repetition."""
    generator = random.Random(seed)  # noqa: S311  (no secret)
    used: set[int] = set()
    while True:
        number = generator.getrandbits(48)
        if number not in used:
            used.add(number)
            yield number


def _take(blocks: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(next(blocks) for _ in range(count))


def _whole(tokens: int) -> int:
    """The number of blocks that hold these tokens."""
    return -(-tokens // BLOCK)
