"""What a bench sends, and what it makes of what came back."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
from dynamoctl.bench import results, workloads
from dynamoctl.bench.results import Answered, Counted, Measured
from dynamoctl.bench.workloads import BLOCK, MultiTurn, Random, Request, Reuse, SharedPrefix, Workload
from dynamoctl.cli import bench as commands

ALL: tuple[Workload, ...] = (Reuse(), MultiTurn(), SharedPrefix(), Random())


def common(one: Request, other: Request) -> int:
    """Tokens that two prompts have in common at their beginning."""
    pairs = zip(one.blocks, other.blocks, strict=False)
    return BLOCK * next(
        (i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.blocks), len(other.blocks))
    )


# ---- workloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", ALL, ids=lambda one: one.kind)
def test_the_same_seed_makes_the_same_prompts_and_another_one_none_of_them(workload: Workload) -> None:
    assert workload.in_passes(7) == workload.in_passes(7)
    one, other = ({b for p in workload.in_passes(s) for r in p.requests for b in r.blocks} for s in (7, 8))
    assert not one & other


def test_a_document_is_asked_about_again_with_another_question_when_it_was_forgotten() -> None:
    passes = Reuse(documents=3, document_tokens=100, passes=3, output_tokens=4).in_passes(1)
    assert [(one.label, one.forget) for one in passes] == [
        ("first", False), ("again 1", True), ("again 2", True),
    ]  # fmt: skip
    for first, again in zip(passes[0].requests, passes[1].requests, strict=True):
        assert common(first, again) == 112  # 100 in whole blocks
        assert first != again
    assert common(*passes[0].requests[:2]) == 0


def test_a_turn_begins_with_all_that_was_said_before() -> None:
    passes = MultiTurn(conversations=2, turns=3, first_tokens=64, turn_tokens=16, output_tokens=32).in_passes(
        1
    )
    assert [one.requests[0].input_tokens for one in passes] == [64, 112, 160]
    for before, after in pairwise(passes):
        for said, goes_on in zip(before.requests, after.requests, strict=True):
            assert common(said, goes_on) == said.input_tokens


def test_prompts_share_their_beginnings_in_turn() -> None:
    (one,) = SharedPrefix(requests=4, prefixes=2, prefix_tokens=64, suffix_tokens=16).in_passes(1)
    a, b, c, _ = one.requests
    assert (common(a, b), common(a, c)) == (0, 64)


def test_random_prompts_have_nothing_in_common() -> None:
    (one,) = Random(requests=5, input_tokens=64).in_passes(1)
    assert len({block for request in one.requests for block in request.blocks}) == 5 * 4


def test_a_trace_is_json_lines_in_mooncakes_form() -> None:
    (line,) = workloads.trace([Request((5, 6), 3)]).splitlines()
    assert json.loads(line) == {"timestamp": 0, "input_length": 32, "output_length": 3, "hash_ids": [5, 6]}


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (Reuse, commands.reuse),
        (MultiTurn, commands.multi_turn),
        (SharedPrefix, commands.shared_prefix),
        (Random, commands.random),
    ],
)
def test_a_commands_defaults_are_the_workloads(kind: Any, command: Callable[..., None]) -> None:
    """They are said twice, because importing the workloads would take `--help` its time."""
    flags = inspect.signature(command).parameters
    assert {one.name: one.default for one in fields(kind)} == {
        one.name: flags[one.name].default for one in fields(kind)
    }


# ---- results ------------------------------------------------------------------------------------


def measured(label: str, *answered: Answered) -> Measured:
    return Measured(label, 2.0, answered, Counted(lmcache_hit_tokens=5))


def test_percentiles_lie_between_values_in_proportion() -> None:
    values = [4.0, 1.0, 2.0, 3.0]
    assert [results.percentile(values, share) for share in (0, 0.5, 0.95, 1)] == pytest.approx(
        [1, 2.5, 3.85, 4]
    )
    assert results.percentile([7.0], 0.99) == 7.0


def test_figures_are_those_of_the_requests_that_were_answered() -> None:
    one = results.summed_up(
        measured(
            "first",
            Answered(100, 3, 0.5, (0.1, 0.3)),
            Answered(200, 2, 1.5, (0.2,)),
            Answered(300, 0, 0.0, error="Bad Request"),
        )
    )
    assert (one.requests, one.failed, one.errors) == (3, 1, {"Bad Request": 1})
    assert (one.prompt_tokens, one.output_tokens) == (300, 5)
    assert (one.requests_per_s, one.output_tokens_per_s, one.total_tokens_per_s) == (1.0, 2.5, 152.5)
    assert one.ttft_s is not None
    assert one.inter_token_latency_s is not None
    assert one.latency_s is not None
    assert (one.ttft_s.mean, one.ttft_s.p50) == (1.0, 1.0)
    assert one.inter_token_latency_s.mean == pytest.approx(0.2)
    assert one.latency_s.mean == pytest.approx((0.9 + 1.7) / 2)


def test_a_pass_in_which_all_failed_has_no_latencies() -> None:
    one = results.summed_up(measured("first", Answered(1, 0, 0.0, error="refused")))
    assert (one.ttft_s, one.inter_token_latency_s, one.latency_s, one.total_tokens_per_s) == (
        None,
        None,
        None,
        0,
    )


def test_how_many_times_faster_needs_two_passes() -> None:
    first, again, last = (results.summed_up(measured("x", Answered(1, 1, ttft))) for ttft in (1.2, 0.2, 0.4))
    assert results.times_faster([first]) is None
    assert results.times_faster([first, again, last]) == pytest.approx(4.0)


def test_what_vllm_bench_serve_writes_is_read() -> None:
    body = {
        "duration": 3.5,
        "input_lens": [10, 20, 30],
        "output_lens": [2, 0, 0],
        "ttfts": [0.5, 0.0, 0.0],
        "itls": [[0.1], [], []],
        "errors": ["", "Traceback (most recent call last):\n  File x\naiohttp.ClientError: gone\n", ""],
    }
    seconds, answered = results.read_vllm(body)
    assert seconds == 3.5
    assert answered == [
        Answered(10, 2, 0.5, (0.1,)),
        Answered(20, 0, 0.0, error="aiohttp.ClientError: gone"),
        Answered(30, 0, 0.0, error="no token came"),
    ]
    with pytest.raises(KeyError):
        results.read_vllm({"duration": 1.0})
