"""What a bench sends, and what it makes of what came back."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl import cli
from dynamoctl.answers.bench import Figures, PassCounts, Ratios
from dynamoctl.answers.envelope import Answer, Error, as_json
from dynamoctl.bench import comparison, plots, results, toml_edit, variants, vllm_serve, workloads
from dynamoctl.bench.results import Measurement, RequestResult
from dynamoctl.bench.workloads import BLOCK, MultiTurn, Random, Request, Reuse, SharedPrefix, Workload
from dynamoctl.cli import bench as commands
from dynamoctl.config.load import load_spec
from dynamoctl.errors import DynamoctlError, NotReadyError, PreflightError, SpecError
from dynamoctl.operations import bench as operation
from dynamoctl.operations import compare as comparing
from dynamoctl.operations import load_generators, tune
from dynamoctl.operations.bench import Bench
from dynamoctl.operations.compare import Comparison, Outcome
from dynamoctl.operations.load_generators import Load
from dynamoctl.processes import process_control

from tests.unit.fresh import last_line_with_vllm
from tests.unit.hosts import plan

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


def measured(label: str, *answered: RequestResult) -> Measurement:
    return Measurement(label, 2.0, answered, PassCounts(lmcache_hit_tokens=5))


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
            RequestResult(100, 3, 0.5, (0.1, 0.3)),
            RequestResult(200, 2, 1.5, (0.2,)),
            RequestResult(300, 0, 0.0, error="Bad Request"),
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
    one = results.summed_up(measured("first", RequestResult(1, 0, 0.0, error="refused")))
    assert (one.ttft_s, one.inter_token_latency_s, one.latency_s, one.total_tokens_per_s) == (
        None,
        None,
        None,
        0,
    )


def test_how_many_times_faster_needs_two_passes() -> None:
    first, again, last = (
        results.summed_up(measured("x", RequestResult(1, 1, ttft))) for ttft in (1.2, 0.2, 0.4)
    )
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
        RequestResult(10, 2, 0.5, (0.1,)),
        RequestResult(20, 0, 0.0, error="aiohttp.ClientError: gone"),
        RequestResult(30, 0, 0.0, error="no token came"),
    ]
    with pytest.raises(KeyError):
        results.read_vllm({"duration": 1.0})


# ---- sizes, variants ----------------------------------------------------------------------------


def test_an_answer_that_breaks_off_is_no_success() -> None:
    class Handler:
        def add_chunk(self, chunk: bytes) -> list[str]:
            return [part for part in chunk.decode().split("\n\n") if part]

    vllm_serve.fail_what_breaks_off(Handler)
    choice = 'data: {"choices": [{"text": " the \\"error\\""}], "error": null}'
    for whole in (choice, "data: [DONE]", ": ping", 'data: {"error"'):
        assert Handler().add_chunk(f"{whole}\n\n".encode()) == [whole]
    for event in (
        'data: {"error": {"message": "gone", "code": 500}}',
        'event: error\ndata: {"error": "gone"}',
    ):
        with pytest.raises(RuntimeError, match=r"^the answer broke off: gone$"):
            Handler().add_chunk(f"{choice}\n\n{event}\n\n".encode())


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_the_installed_benchmark_reads_its_streams_where_we_listen() -> None:
    script = """
import inspect
from vllm.benchmarks.lib import endpoint_request_func as module
plain = inspect.getsource(module.async_request_openai_completions)
print()
print("StreamedResponseHandler()" in plain, "handler.add_chunk(" in plain, "except Exception" in plain)
"""
    assert last_line_with_vllm(script) == "True True True"


def test_sizes_are_set_by_the_names_of_their_flags() -> None:
    made = workloads.make("reuse", ["documents=3", "document-tokens=40", "passes = 3"])
    assert made == Reuse(documents=3, document_tokens=40, passes=3)
    assert str(made) == "3 documents of 40 tokens, 3 passes"


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("document=3", "the workload reuse has no 'document'", "'documents'"),
        ("turns=3", "the workload reuse has no 'turns'", "document-tokens"),
        ("documents", "'documents' does not set a number", "documents=8"),
        ("documents=0", "'documents=0' does not set a number", "documents=8"),
    ],
)
def test_a_size_that_is_none_is_told(word: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        workloads.make("reuse", [word])
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", [*variants.known()[:-1], "chunk-512"])
def test_a_variant_that_is_known_makes_a_deployment(name: str) -> None:
    (one,) = variants.parse([name])
    spec = load_spec(one.flags, {})
    assert (one.name, one.config) == (name, None)
    assert spec.lmcache.enabled is ("no-lmcache" not in name)
    assert spec.workers == (2 if name.startswith("router-") else 1)
    assert spec.lmcache.chunk_size == (512 if name == "chunk-512" else 256)


def test_a_toml_is_a_variant_by_its_name() -> None:
    (one,) = variants.parse(["files/mine.toml"])
    assert (one.name, one.config, one.flags) == ("mine", Path("files/mine.toml"), {})


@pytest.mark.parametrize(
    ("words", "message"),
    [(["disag"], "no variant 'disag'"), (["chunk-0"], "no variant"), (["agg", "agg"], "named twice")],
)
def test_a_variant_that_is_none_is_told(words: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        variants.parse(words)


def test_a_sweep_has_each_chunk_size_with_each_size_of_the_cache() -> None:
    assert [one.name for one in variants.grid([128, 256], [1.0, 2.5])] == [
        "chunk-128-1gib", "chunk-256-1gib", "chunk-128-2.5gib", "chunk-256-2.5gib",
    ]  # fmt: skip
    assert [one.flags for one in variants.grid([128], [])] == [{"lmcache.chunk_size": 128}]


# ---- variants side by side ----------------------------------------------------------------------


def figures(later: float | None, first: float = 1.0) -> Figures:
    return Figures(first, later, 0.05, 100.0)


def test_repeated_runs_are_one_in_which_every_request_counts_alike() -> None:
    quick, slow = RequestResult(10, 1, 0.2), RequestResult(10, 1, 0.6)
    (one,) = comparison.pooled([[measured("x", quick)], [measured("x", slow, slow)]])
    assert (one.seconds, len(one.answered), one.counted.lmcache_hit_tokens) == (4.0, 3, 10)
    assert comparison.figures([results.summed_up(one)]).ttft_first_s == pytest.approx(1.4 / 3)
    assert one.counted.prefix_hit_tokens is None  # nobody counted it


def test_ratios_are_times_the_other() -> None:
    assert comparison.ratios(figures(0.5, 2.0), figures(2.0)) == Ratios(
        ttft_first_s=2.0, ttft_later_s=0.25, inter_token_latency_p99_s=1.0, total_tokens_per_s=1.0
    )
    assert comparison.ratios(figures(None), figures(2.0)).ttft_later_s is None


def test_the_best_is_the_quickest_with_hits_and_of_as_good_ones_the_smallest() -> None:
    assert comparison.best([("a", figures(0.5), 1.0), ("b", figures(0.3), 8.0)]) == "b"
    assert comparison.best([("a", figures(0.31), 1.0), ("b", figures(0.30), 8.0)]) == "a"
    assert comparison.best([("a", figures(None, 0.9), 1.0), ("b", figures(None, 0.4), 1.0)]) == "b"


# ---- the user's TOML ----------------------------------------------------------------------------

TOML = """# Ours.
mode = "agg"   # one worker

[lmcache]      # the cache
chunk_size = 256  # tokens
# more below

[env]
A = "1"
"""


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, in the folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "dynamoctl.toml"
    path.write_text(TOML)
    return path


def test_a_toml_keeps_all_but_the_keys_that_are_set() -> None:
    edited = toml_edit.with_lmcache(TOML, {"chunk_size": 512})
    assert edited == TOML.replace("256", "512")
    more = toml_edit.with_lmcache(TOML, {"cpu_gb": 2.0})
    assert [line for line in more.splitlines() if line not in TOML.splitlines()] == ["cpu_gb = 2.0"]


@pytest.mark.parametrize("text", ["", 'mode = "agg"\n', "lmcache = {}\n", "lmcache.chunk_size = 1\n"])
def test_a_toml_without_the_table_gets_one(text: str) -> None:
    edited = tomllib.loads(toml_edit.with_lmcache(text, {"chunk_size": 512}))
    assert edited == {**tomllib.loads(text), "lmcache": {"chunk_size": 512}}


def test_a_toml_that_sets_the_same_in_another_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "dynamoctl.toml"
    path.write_text("[lmcache]\nmax_local_cpu_size = 3\n")
    with pytest.raises(SpecError, match="the same setting"):
        tune._edited(path, {"cpu_gb": 2.0})
    assert path.read_text() == "[lmcache]\nmax_local_cpu_size = 3\n"


def test_a_toml_keeps_its_permissions_and_a_link_to_it_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "real.toml", tmp_path / "dynamoctl.toml"
    path.write_text(TOML)
    path.chmod(0o640)
    link.symlink_to(path)
    tune._write(link, tune._edited(link, {"chunk_size": 1024}))
    assert "chunk_size = 1024  # tokens" in path.read_text()
    assert (link.is_symlink(), path.stat().st_mode & 0o777) == (True, 0o640)


# ---- plots, files -------------------------------------------------------------------------------


def run_of(ttfts: tuple[float, float]) -> Bench:
    passes = tuple(
        measured(label, RequestResult(100, 2, ttft, (0.05,))) for label, ttft in zip("ab", ttfts, strict=True)
    )
    return Bench(plan(), Reuse(), 1, Load(), "reset", 0.0, passes)


def compared() -> Comparison:
    good = [
        Outcome(one, "bench-1", [run_of((1.0, later))], [30.0]) for one, later in ((AGG, 0.25), (CHUNK, 0.5))
    ]
    bad = Outcome(variants.Variant("bad"), "bench-3", error=NotReadyError("it died", "see its log"))
    return Comparison(Reuse(), 1, Load(), 1, 0.0, (*good, bad))


AGG, CHUNK = variants.parse(["agg", "chunk-128"])


def answers() -> dict[str, Answer]:
    swept = tune.TuningResult(compared(), "agg", {"chunk_size": 256}, Path("d.toml"), written=True)
    return {
        "bench": run_of((1.0, 0.25)).answer,
        "bench-compare": compared().answer,
        "bench-tune": swept.answer,
    }


@pytest.mark.parametrize("kind", ["bench", "bench-compare", "bench-tune"])
def test_a_result_is_written_read_shown_and_drawn_alike_each_time(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    operation.write(file, as_json(answers()[kind]))
    said = json.loads(file.read_text())
    assert (said.pop("schema"), said.pop("ok")) == (f"dynamoctl/{kind}/v1", True)
    assert operation.read(file) == (kind, said)
    assert cli.run(["bench", "show", str(file), "--plot", str(tmp_path / "p.png")]) == 0
    shown = capsys.readouterr().out
    assert "reuse" in shown
    assert "0.250" in shown
    png, svg = (tmp_path / name for name in ("p.png", "p.svg"))
    assert png.read_bytes().startswith(b"\x89PNG")
    first = svg.read_bytes()
    plots.save(kind, said, tmp_path / "p")
    assert svg.read_bytes() == first


def test_ratios_are_to_the_first_variant_and_a_failed_one_is_named() -> None:
    answer = compared().answer
    assert answer.against == "agg"
    assert [one.ok for one in answer.variants] == [True, True, False]
    assert answer.variants[1].ratios is not None
    assert answer.variants[1].ratios.ttft_later_s == 2.0
    failure = compared().failure
    assert failure is not None
    assert (failure.message, failure.exit_code) == ("1 variant of 3 failed", 1)
    assert failure.hint == "bad: it died\n  see its log"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """What `compare` does to deployments, without any: `agg-mp` does not come up."""
    monkeypatch.setenv("DYNAMOCTL_HOME", str(tmp_path))
    done: list[tuple[str, ...]] = []

    def up(planned: Any, *_: Any) -> Any:
        done.append(("up", planned.spec.name))
        if planned.spec.lmcache.mode == "mp":
            raise NotReadyError("it died")
        return SimpleNamespace(seconds=1.0)

    def measure(name: str, _workload: Workload, seed: int, *_: Any) -> Bench:
        done.append(("bench", name, str(seed)))
        return run_of((1.0, 0.5))

    monkeypatch.setattr(
        comparing, "plan_for_here", lambda flags, _: SimpleNamespace(spec=load_spec(flags, {}))
    )
    monkeypatch.setattr(comparing, "up", up)
    monkeypatch.setattr(operation, "run", measure)
    monkeypatch.setattr(comparing, "down", lambda name, _: done.append(("down", name)))
    return done


def nobody(*_: Any) -> None:
    pass


def test_every_other_round_goes_backwards_and_who_failed_is_left_out(calls: list[tuple[str, ...]]) -> None:
    chosen = variants.parse(["agg", "agg-mp", "disagg"])
    watching = comparing.Watching(nobody, nobody, nobody, nobody, nobody)
    done = comparing.compare(chosen, {}, None, Reuse(), 7, Load(), "reset", 2, watching)
    first, second = ("bench-1", "7"), ("bench-3", "7")
    assert calls == [
        ("up", "bench-1"), ("bench", *first), ("down", "bench-1"),
        ("up", "bench-2"), ("down", "bench-2"),
        ("up", "bench-3"), ("bench", *second), ("down", "bench-3"),
        ("up", "bench-3"), ("bench", "bench-3", "8"), ("down", "bench-3"),
        ("up", "bench-1"), ("bench", "bench-1", "8"), ("down", "bench-1"),
    ]  # fmt: skip
    assert [len(one.runs) for one in done.outcomes] == [2, 0, 2]
    first_variant, failed, _ = done.answer.variants
    assert [one.ready_s for one in done.answer.variants] == [(1.0, 1.0), (), (1.0, 1.0)]
    assert first_variant.bench is not None
    assert first_variant.bench.passes[0].requests == 2
    assert failed.error == Error(4, "it died", "")


@pytest.mark.parametrize("words", [("compare", "agg", "disagg"), ("tune", "--chunk-sizes", "128,256")])
def test_what_was_measured_is_not_lost_when_it_is_broken_off(
    calls: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    toml: Path,
    words: tuple[str, ...],
) -> None:
    file = toml.parent / "so-far.json"

    def measure(name: str, *_: Any) -> Bench:
        if name == "bench-2":
            assert json.loads(file.read_text())["error"]["message"] == "not finished"
            raise KeyboardInterrupt
        return run_of((1.0, 0.5))

    monkeypatch.setattr(operation, "run", measure)
    assert cli.run(["bench", *words, "-o", str(file)]) == 130
    shown = capsys.readouterr()
    assert "0.500" in shown.out
    assert "not measured" in shown.out
    assert shown.err.splitlines()[-3:] == [
        f"what was measured is in {file}",
        "broken off; what was up for it has been taken down",
        "error: interrupted",
    ]
    assert calls[-1] == ("down", "bench-2")
    assert toml.read_text() == TOML
    assert cli.run(["bench", "show", str(file)]) == 1
    shown = capsys.readouterr()
    assert "0.500" in shown.out
    assert "not finished" in shown.err


@pytest.mark.parametrize("is_broken_off", [False, True])
def test_what_was_measured_is_shown_where_it_cannot_be_written(
    calls: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    is_broken_off: bool,
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    file = folder / "x.json"

    def measure(name: str, *_: Any) -> Bench:
        if folder.is_dir():
            folder.rmdir()  # while it measures
        elif is_broken_off:
            raise KeyboardInterrupt
        return run_of((1.0, 0.5))

    monkeypatch.setattr(operation, "run", measure)
    code = cli.run(["bench", "compare", "agg", "disagg", "-o", str(file)])
    shown = capsys.readouterr()
    assert "0.500" in shown.out
    if is_broken_off:
        assert code == 130
        assert f"what was measured is not in {file}, which cannot be written" in shown.err
    else:
        assert code == 1
        assert f"cannot write {file}: No such file or directory" in shown.err


def tuned(toml: Path, chunk_sizes: list[int], cpu_gbs: list[float], *, write: bool) -> tune.TuningResult:
    watching = comparing.Watching(nobody, nobody, nobody, nobody, nobody)
    return tune.tune(toml, {}, chunk_sizes, cpu_gbs, Reuse(), 7, Load(), "reset", 1, write, watching)


def test_the_best_of_a_sweep_is_set_in_the_toml(calls: list[tuple[str, ...]], toml: Path) -> None:
    assert tuned(toml, [1024, 128], [], write=False).written is False
    assert toml.read_text() == TOML
    done = tuned(toml, [1024, 128], [], write=True)
    assert (done.best, done.values, done.written) == ("chunk-1024", {"chunk_size": 1024}, True)
    assert toml.read_text() == TOML.replace("256", "1024")


@pytest.mark.parametrize(("gib", "line"), [(12.0, "cpu_gb = 12"), (0.5, "cpu_gb = 0.5")])
def test_a_size_of_the_cache_is_set_as_people_write_it(
    calls: list[tuple[str, ...]], toml: Path, gib: float, line: str
) -> None:
    tuned(toml, [256], [gib], write=True)
    assert [one for one in toml.read_text().splitlines() if one not in TOML.splitlines()] == [line]


@pytest.mark.parametrize("sizes", ["", ",", "256.5", "0.5", "0", "-1", "many", "nan"])
def test_chunk_sizes_are_whole_numbers(
    calls: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str], toml: Path, sizes: str
) -> None:
    assert cli.run(["bench", "tune", f"--chunk-sizes={sizes}"]) == 2
    shown = capsys.readouterr().err
    assert f"--chunk-sizes: '{sizes}' are no" in shown
    assert "as in: --chunk-sizes 128,256" in shown
    assert calls == []
    assert toml.read_text() == TOML


def test_a_chunk_size_that_is_named_twice_is_tried_once(calls: list[tuple[str, ...]], toml: Path) -> None:
    assert cli.run(["bench", "tune", "--chunk-sizes", "256,256.0", "--no-write"]) == 0
    assert [call[0] for call in calls] == ["up", "bench", "down"]


def test_there_must_be_a_toml_with_lmcache_to_tune(tmp_path: Path) -> None:
    path = tmp_path / "off.toml"
    path.write_text("[lmcache]\nenabled = false\n")
    watching = comparing.Watching(nobody, nobody, nobody, nobody, nobody)
    for config, message in ((path, "LMCache is off"), (tmp_path / "no.toml", "no config file")):
        words: Any = (config, {}, [128], [], Reuse(), 7, Load(), "reset", 1, True, watching)
        with pytest.raises(SpecError, match=message):
            tune.tune(*words)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "dynamoctl/status/v1"}', '{"schema": 3}'])
def test_a_file_that_holds_no_result_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(SpecError, match="holds no result"):
        operation.read(file)


def test_a_missing_library_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert cli.run(["bench", "random", "-n", "nothing", "--plot", "x"]) == 3
    assert "pip install 'dynamoctl[bench]'" in capsys.readouterr().err


def test_a_folder_that_is_missing_is_told_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["bench", "random", "-n", "nothing", "-o", "no-such-folder/x.json"]) == 2
    assert "there is no folder no-such-folder" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(["bench", "random", "-n", "nothing", "-o", str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder" in capsys.readouterr().err
    assert cli.run(["bench", "random", "-n", "nothing", "-o", "/proc/x.json"]) == 2
    assert "cannot write to /proc: " in capsys.readouterr().err


def test_a_result_with_a_failure_is_shown_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, failure = tmp_path / "result.json", compared().failure
    assert failure is not None
    operation.write(file, as_json(compared().answer, Error.of(failure)))
    assert cli.run(["bench", "show", str(file)]) == 1
    shown = capsys.readouterr()
    assert "bad" in shown.out
    assert "1 variant of 3 failed" in shown.err
    assert cli.run(["bench", "show", str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())


# ---- progress -----------------------------------------------------------------------------------


def test_the_time_left_is_at_the_pace_of_all_passes_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    seen: list[operation.Progress] = []
    clock = operation._Clock(Reuse(documents=4, passes=2).in_passes(1), seen.append)
    clock.begin("first")
    clock.done(0)
    now += 10
    clock.done(2)
    assert seen[-1] == operation.Progress("first", 2, 8, 30.0)
    now += 10
    clock.done(4)
    clock.end()
    now += 50  # the load generator starts again
    clock.begin("again")
    clock.done(0)
    assert seen[-1] == operation.Progress("again", 4, 8, 20.0)


def test_progress_bars_are_read_and_other_lines_are_kept(tmp_path: Path) -> None:
    done: list[int] = []
    script = "import sys; sys.stderr.write(' 1/3 [00:01<\\r 3/3 [00:02<\\n'); print('the end')"
    assert load_generators._run([sys.executable, "-c", script], dict(os.environ), tmp_path, done.append) == [
        "the end"
    ]
    assert done == [1, 3]


def test_a_load_generator_that_fails_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(DynamoctlError, match=r"failed \(exit 3\)") as caught:
        load_generators._run(
            [sys.executable, "-c", "print('why'); raise SystemExit(3)"], dict(os.environ), tmp_path, print
        )
    assert caught.value.hint == "why"


def test_a_load_generator_ends_with_all_that_it_started_when_it_is_broken_off(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    pids: list[int] = []
    script = "import os, time; print(os.fork() or os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        process_control.follow([sys.executable, "-c", script], dict(os.environ), tmp_path, interrupt)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pids[0]}").exists() and "zombie" not in Path(f"/proc/{pids[0]}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- AIPerf -------------------------------------------------------------------------------------


def record(number: int, begins: float, ends: float, **more: Any) -> str:
    times = {"request_start_ns": begins * 1e9, "request_end_ns": ends * 1e9}
    return json.dumps({"metadata": {"session_num": number, **times}, **more})


def test_what_aiperf_writes_is_read_in_the_order_of_the_requests() -> None:
    metrics = {
        "usage_prompt_tokens": {"value": 33, "unit": "tokens"},
        "usage_completion_tokens": {"value": 3, "unit": "tokens"},
        "time_to_first_token": {"value": 250.0, "unit": "ms"},
        "inter_chunk_latency": {"value": [10.0, 20.0], "unit": "ms"},
    }
    error = {"code": 500, "type": "Internal Server Error", "message": "no"}
    lines = [record(1, 12, 14.5, metrics={}, error=error), record(0, 10, 11, metrics=metrics)]
    assert results.read_aiperf(lines) == (
        4.5,
        [
            RequestResult(33, 3, 0.25, (0.01, 0.02)),
            RequestResult(0, 0, 0.0, error="500 Internal Server Error"),
        ],
    )
    with pytest.raises(ValueError, match="empty"):
        results.read_aiperf([])


def test_an_answer_that_broke_off_is_a_failure_though_aiperf_says_nothing() -> None:
    """As aiperf 0.13.0 records an answer whose stream ends with an error in its data, or merely ends."""
    metrics = {
        "time_to_first_token": {"value": 6.6, "unit": "ms"},
        "inter_chunk_latency": {"value": [18.1, 20.2, 20.5], "unit": "ms"},
        "request_latency": {"value": 65.4, "unit": "ms"},
    }
    _, (answer,) = results.read_aiperf([record(0, 10, 11, metrics=metrics, error=None)])
    assert answer.error == "the answer broke off: no usage came"
    _, (answer,) = results.read_aiperf([record(0, 10, 11, metrics={}, error=None)])
    assert answer.error == "no token came"


def test_equal_blocks_are_equal_words_for_it() -> None:
    lines = workloads.text_trace([Request((5, 6), 3), Request((5, 7), 3)]).splitlines()
    one, other = (json.loads(line) for line in lines)
    assert (len(one["text_input"].split()), one["output_length"]) == (2 * BLOCK, 3)
    assert one["text_input"].split()[:BLOCK] == other["text_input"].split()[:BLOCK]
    assert one["text_input"] != other["text_input"]


def test_aiperf_is_the_program_that_is_named(tmp_path: Path) -> None:
    program = tmp_path / "aiperf"
    with pytest.raises(SpecError, match="there is no program"):
        load_generators.find_aiperf(program, print)
    program.touch(0o755)
    assert load_generators.find_aiperf(program, print) == program


def test_aiperf_that_cannot_be_installed_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMOCTL_CACHE", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: "/bin/false")
    told: list[Path] = []
    for _ in range(2):
        with pytest.raises(PreflightError, match="cannot install") as caught:
            load_generators.find_aiperf(None, told.append)
        assert "--aiperf PROGRAM" in caught.value.hint
    assert [path.parent for path in told] == [tmp_path, tmp_path]
