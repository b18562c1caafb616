"""What a bench asks for: prompts in passes, made from a seed. Pure.

A prompt is a row of blocks of `BLOCK` tokens, each known by a number: equal numbers are equal text. Two
prompts that begin with the same numbers have that much of a prefix in common, which is all that a KV cache
looks at. It is the form in which traces of real services are published (Mooncake's, Qwen's), and load
generators make text of it.
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
# What is asked about a document at its end: each time something else.
_QUESTION_BLOCKS = 2
# A block as text has one of these for each token; most tokenizers have one token for each, with its blank.
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
    """One prompt, and how many tokens of answer to it are asked for."""

    blocks: tuple[int, ...]
    output_tokens: int

    @property
    def input_tokens(self) -> int:
        """Its length; what the engine counts differs by some in a hundred: text is cut anew there."""
        return len(self.blocks) * BLOCK


@dataclass(frozen=True)
class Pass:
    """Requests that are measured together.

    Attributes:
        forget: whether the engines' own prefix caches must have lost before it what they had.
    """

    label: str
    requests: tuple[Request, ...]
    forget: bool = False


class Workload(Protocol):
    """What is sent. Every field is a number of the user's."""

    kind: ClassVar[str]

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """The requests; the same seed gives the same ones."""

    def __str__(self) -> str:
        """In a few words."""


@dataclass(frozen=True)
class Reuse:
    """Long documents, each asked about again when the engine's own prefix cache has lost it.

    Attributes:
        documents: how many.
        document_tokens: the length of each.
        passes: how often each is asked about.
        output_tokens: the length of an answer.
    """

    kind: ClassVar[str] = "reuse"
    documents: int = 8
    document_tokens: int = 1024
    passes: int = 2
    output_tokens: int = 16

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """In the same order each time: the one asked for next is the one used longest ago."""
        new = _blocks(seed)
        documents = [_take(new, _whole(self.document_tokens)) for _ in range(self.documents)]
        return tuple(
            Pass(
                "first" if number == 0 else "again" if self.passes == 2 else f"again {number}",
                tuple(
                    Request((*one, *_take(new, _QUESTION_BLOCKS)), self.output_tokens) for one in documents
                ),
                forget=number > 0,
            )
            for number in range(self.passes)
        )

    def __str__(self) -> str:
        return f"{self.documents} documents of {self.document_tokens:,} tokens, {self.passes} passes"


@dataclass(frozen=True)
class MultiTurn:
    """Conversations: each turn is sent with all that was said before.

    Attributes:
        conversations: how many, side by side.
        turns: of each.
        first_tokens: the length of the first question, with what the model is told before it.
        turn_tokens: the length of each later question.
        output_tokens: the length of an answer. (What goes on as the answer in the next turn is made up.)
    """

    kind: ClassVar[str] = "multi-turn"
    conversations: int = 4
    turns: int = 3
    first_tokens: int = 512
    turn_tokens: int = 64
    output_tokens: int = 32

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """A pass for each turn."""
        new = _blocks(seed)
        said = [_take(new, _whole(self.first_tokens)) for _ in range(self.conversations)]
        made = []
        for turn in range(self.turns):
            if turn:
                more = _whole(self.output_tokens) + _whole(self.turn_tokens)
                said = [(*one, *_take(new, more)) for one in said]
            made.append(Pass(f"turn {turn + 1}", tuple(Request(one, self.output_tokens) for one in said)))
        return tuple(made)

    def __str__(self) -> str:
        return (
            f"{self.conversations} conversations of {self.turns} turns,"
            f" {self.first_tokens:,} tokens first and {self.turn_tokens:,} in each turn after it"
        )


@dataclass(frozen=True)
class SharedPrefix:
    """Prompts that begin alike, as with one system prompt for all, and end differently.

    Attributes:
        requests: how many.
        prefixes: how many beginnings there are.
        prefix_tokens: the length of a beginning.
        suffix_tokens: the length of an end.
        output_tokens: the length of an answer.
    """

    kind: ClassVar[str] = "shared-prefix"
    requests: int = 16
    prefixes: int = 2
    prefix_tokens: int = 512
    suffix_tokens: int = 64
    output_tokens: int = 32

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """One, in which the beginnings take turns."""
        new = _blocks(seed)
        beginnings = [_take(new, _whole(self.prefix_tokens)) for _ in range(self.prefixes)]
        return (
            Pass(
                "all",
                tuple(
                    Request(
                        (*beginnings[number % self.prefixes], *_take(new, _whole(self.suffix_tokens))),
                        self.output_tokens,
                    )
                    for number in range(self.requests)
                ),
            ),
        )

    def __str__(self) -> str:
        return (
            f"{self.requests} requests of {self.prefix_tokens:,} tokens in common with others"
            f" ({self.prefixes} beginnings) and {self.suffix_tokens:,} of their own"
        )


@dataclass(frozen=True)
class Random:
    """Prompts that have nothing in common: what everything costs where no cache helps.

    Attributes:
        requests: how many.
        input_tokens: the length of each.
        output_tokens: the length of an answer.
    """

    kind: ClassVar[str] = "random"
    requests: int = 16
    input_tokens: int = 512
    output_tokens: int = 32

    def in_passes(self, seed: int) -> tuple[Pass, ...]:
        """One."""
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
        return f"{self.requests} requests of {self.input_tokens:,} tokens, nothing in common"


KINDS: dict[str, type[Reuse] | type[MultiTurn] | type[SharedPrefix] | type[Random]] = {
    kind.kind: kind for kind in (Reuse, MultiTurn, SharedPrefix, Random)
}


def make(kind: str, sizes: Sequence[str]) -> Workload:
    """The workload of this kind, with what is set of it.

    Args:
        sizes: as in `documents=8`.

    Raises:
        SpecError: it has no such size, or that is no number.
    """
    chosen = KINDS[kind]
    given: dict[str, int] = {}
    for word in sizes:
        name, _, number = word.partition("=")
        name = name.strip().replace("-", "_")
        if name not in chosen.__dataclass_fields__:
            known = [one.replace("_", "-") for one in chosen.__dataclass_fields__]
            raise SpecError(
                f"the workload {kind} has no '{name.replace('_', '-')}'",
                nearest(name.replace("_", "-"), known) or f"known are: {', '.join(known)}",
            )
        if not number.strip().isdecimal() or int(number) < 1:
            raise SpecError(f"'{word}' sets no number from 1 on", f"as in: {name.replace('_', '-')}=8")
        given[name] = int(number)
    return chosen(**given)


def as_json(workload: Workload, seed: int) -> dict[str, Any]:
    """The workload's part of a result."""
    numbers: dict[str, Any] = asdict(workload)  # type: ignore[call-overload]  # every one is a dataclass
    return {"kind": workload.kind, "seed": seed, **numbers}


def trace(requests: Sequence[Request]) -> str:
    """Requests as a trace in Mooncake's form: JSON Lines, everything at once."""
    return "".join(
        json.dumps(
            {
                "timestamp": 0,
                "input_length": one.input_tokens,
                "output_length": one.output_tokens,
                "hash_ids": one.blocks,
            }
        )
        + "\n"
        for one in requests
    )


def text_trace(requests: Sequence[Request]) -> str:
    """The same for a load generator that makes another text of a block each time: with the text in it."""
    return "".join(
        json.dumps({"text_input": text(one), "output_length": one.output_tokens}) + "\n" for one in requests
    )


def text(request: Request) -> str:
    """The prompt in words."""
    return "".join(
        f" {word}"
        for block in request.blocks
        for word in random.Random(block).choices(_WORDS, k=BLOCK)  # noqa: S311  (no secret)
    )


def _blocks(seed: int) -> Iterator[int]:
    """Numbers of blocks that nobody has had yet."""
    draw = random.Random(seed)  # noqa: S311  (no secret)
    had: set[int] = set()
    while True:
        number = draw.getrandbits(48)
        if number not in had:
            had.add(number)
            yield number


def _take(blocks: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(next(blocks) for _ in range(count))


def _whole(tokens: int) -> int:
    """So many blocks hold these tokens."""
    return -(-tokens // BLOCK)
