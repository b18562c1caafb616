"""`dynamoctl status --watch`: what is remembered from look to look, and how it is drawn."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from typing import Any

import pytest
from dynamoctl.answers.envelope import Error
from dynamoctl.cli import draw_watch, run
from dynamoctl.cli.draw_watch import DeploymentView, Overview, WatchDisplay, sparkline
from dynamoctl.host.processes import identify
from dynamoctl.monitoring.observe import Memory, Snapshot
from dynamoctl.monitoring.rates import Change
from dynamoctl.operations import watch
from dynamoctl.operations.status import Look, _answer, _nothing
from dynamoctl.operations.watch import HISTORY_S, WatchedDeployment
from dynamoctl.state import DeploymentState, UnitState
from rich.console import Console

BOUNDS = ("0.1", "0.2", "+Inf")


def look(
    when: float,
    requests: int = 0,
    *,
    start: str = "first",
    worker_began: float = 2.0,
    hits: int = 0,
    answers: bool = True,
    name: str = "default",
) -> Look:
    """A disaggregated deployment that has finished so many requests, each of 10 prompt tokens."""
    units = [
        UnitState("frontend", "frontend", "ready", identity=identify(os.getpid()), started_at=1.0),
        UnitState(
            "decode-0", "decode", "ready", identity=identify(os.getpid()), gpus=[0], started_at=worker_began
        ),
        UnitState("prefill-0", "prefill", "ready", identity=identify(os.getpid()), gpus=[1], started_at=3.0),
    ]
    state = DeploymentState(
        name, "disagg", "qwen3-0.6b", "http://127.0.0.1:8000", start, "ready", units=units
    )
    seen = Snapshot(
        health={unit.name: "ok" for unit in units},
        cache={"hit_tokens": hits, "requested_tokens": requests * 10, "hit_rate": 0.38},
        transfers={"count": requests, "bytes": requests * 1_000_000, "failed": 0},
        memory=Memory(
            {unit.name: 3000 for unit in units},
            {"decode-0": 30_000, "prefill-0": 40_000},
            {"0": (61_440, 81_559), "1": (700, 81_559)},
            {"0": 0.87},
        ),
        taken_at=when,
        counters={
            "frontend": {
                "requests": requests,
                "failed_requests": requests // 10,
                "prompt_tokens": requests * 10,
                "generation_tokens": requests * 100,
            },
            "decode-0": {"transfers": requests, "transferred_bytes": requests * 1e6, "failed_transfers": 0},
            "prefill-0": {"hit_tokens": hits, "requested_tokens": requests * 10},
        },
        histograms={"frontend": {"ttft": {**dict.fromkeys(BOUNDS, 0), "0.2": requests, "+Inf": requests}}},
        failed_by_type={"cancelled": requests // 10} if requests >= 10 else {},
        gauges={
            "decode-0": {"requests_running": 3, "requests_waiting": 1, "kv_cache_usage": 0.45},
            "prefill-0": {"requests_running": 1, "requests_waiting": 0, "kv_cache_usage": 0.97},
        },
    )
    answer = json.loads(json.dumps(dataclasses.asdict(seen))) if answers else None
    return Look(_answer(state, "ready", [], answer), state, answer)


NOTHING = Look(_nothing("default"))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Look | BaseException]:
    """What is seen at each look; after the last, Ctrl-C."""
    coming: list[Look | BaseException] = []

    def next_look(name: str) -> Look:
        one = coming.pop(0) if coming else KeyboardInterrupt()
        if isinstance(one, BaseException):
            raise one
        return one

    monkeypatch.setattr(watch, "look", next_look)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return coming


def watched(looks: list[Look | BaseException], *coming: Look) -> list[WatchedDeployment]:
    looks.extend(coming)
    seen = []
    try:
        for (one,) in watch.watch(lambda: ["default"], 2.0):
            seen.append(one)
    except KeyboardInterrupt:
        return seen
    raise AssertionError


def rates(seen: WatchedDeployment) -> dict[str, Any]:
    found = seen.answer.rates
    assert found is not None
    return dataclasses.asdict(found)


# ---- from look to look ----------------------------------------------------------------------


def test_rates_are_what_came_since_the_look_before(looks: list[Look | BaseException]) -> None:
    first, second = watched(looks, look(100, 10), look(102, 30, hits=50))
    assert first.answer.rates is None
    assert rates(second) == {
        "interval_s": 2,
        "requests_per_s": 10,
        "failed_requests_per_s": 1,
        "prompt_tokens_per_s": 100,
        "generation_tokens_per_s": 1000,
        "cache_hit_rate": 0.25,
        "transfers_per_s": 10,
        "transferred_bytes_per_s": 10_000_000,
        "latency_interval_s": 2,
        "ttft_p50_s": 0.15,
        "ttft_p95_s": 0.195,
        "inter_token_latency_p50_s": None,
        "inter_token_latency_p95_s": None,
    }


def test_an_interval_without_a_request_is_nought_and_has_no_hit_rate(
    looks: list[Look | BaseException],
) -> None:
    found = rates(watched(looks, look(100, 10), look(102, 10))[-1])
    assert (found["requests_per_s"], found["cache_hit_rate"], found["ttft_p50_s"]) == (0, None, None)


def test_latencies_are_those_of_the_last_half_minute(looks: list[Look | BaseException]) -> None:
    quiet = [look(102 + 2 * number, 30) for number in range(16)]
    seen = watched(looks, look(100, 10), *quiet)
    assert [rates(one)["ttft_p50_s"] for one in seen[1:]] == [0.15] * 15 + [None]
    assert [rates(one)["latency_interval_s"] for one in seen[-2:]] == [30, 30]


def test_in_a_long_interval_they_are_those_of_the_interval(looks: list[Look | BaseException]) -> None:
    assert rates(watched(looks, look(100, 10), look(160, 30))[-1])["latency_interval_s"] == 60


def test_a_worker_that_was_restarted_has_counted_from_0(looks: list[Look | BaseException]) -> None:
    found = rates(watched(looks, look(100, 10), look(102, 30, worker_began=101.0))[-1])
    assert (found["requests_per_s"], found["transfers_per_s"]) == (10, 15)


def test_another_start_begins_anew(looks: list[Look | BaseException]) -> None:
    seen = watched(looks, look(100, 10), look(102, 30), look(104, 50, start="second"), look(106, 52))
    assert seen[2].answer.rates is None
    assert (seen[1].recent, seen[2].recent) != ((), ())
    assert seen[2].recent == ()


def test_it_goes_on_while_there_is_nothing_and_when_it_is_back(looks: list[Look | BaseException]) -> None:
    seen = watched(
        looks, look(100, 10), look(102, 30), NOTHING, look(200, 1, start="2"), look(202, 5, start="2")
    )
    assert [one.last is None for one in seen] == [True, False, True, True, False]
    assert rates(seen[-1])["requests_per_s"] == 2
    assert seen[3].recent == ()


def test_a_look_that_was_not_answered_leaves_a_gap(looks: list[Look | BaseException]) -> None:
    seen = watched(looks, look(100, 10), look(102, 12), look(0, answers=False), look(106, 99), look(108, 99))
    assert [one.last is None for one in seen] == [True, False, True, True, False]
    assert [one.seconds for one in seen[-1].recent] == [2, 2]


def test_no_more_is_remembered_than_is_drawn(looks: list[Look | BaseException]) -> None:
    seen = watched(looks, *(look(100 + 2 * number, number) for number in range(100)))[-1]
    assert sum(one.seconds for one in seen.recent) == HISTORY_S


def test_a_supervisor_of_an_older_version_has_no_rates(looks: list[Look | BaseException]) -> None:
    old = look(100, 10)
    assert old.answer is not None
    for key in ("taken_at", "counters", "histograms", "gauges"):
        del old.answer[key]
    assert [one.last for one in watched(looks, old, old)] == [None, None]


# ---- the command ----------------------------------------------------------------------------


def test_json_lines_and_ctrl_c_is_no_failure(
    looks: list[Look | BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    looks += [look(100, 10), look(102, 30), NOTHING]
    assert run(["status", "--watch", "--json"]) == 0
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["schema"], first["ok"], first["rates"]) == ("dynamoctl/status/v1", True, None)
    assert second["rates"]["requests_per_s"] == 10
    assert (third["state"], third["rates"]) == ("stopped", None)
    assert second.keys() == third.keys()


def test_without_a_terminal_each_look_is_a_block_without_escape_codes(
    looks: list[Look | BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    looks += [look(100, 10), look(102, 30), NOTHING]
    assert run(["status", "-w", "--interval", "1"]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out
    assert shown.err == ""
    first, second, third = shown.out.strip("\n").split("\n\n2")
    assert "/s" not in first
    assert " 10/s" in second
    assert third.splitlines()[1] == "default is not running"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interval", "1"], "there is no --watch"),
        (["--watch", "--interval", "0"], "0 s is too short"),
        (["--watch", "--interval", "-1"], "-1 s is too short"),
        (["--watch", "--interval", "nan"], "nan s is too short"),
        (["--watch", "--interval", "soon"], "soon"),
    ],
)
def test_an_interval_that_makes_no_sense_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["status", *words]) == 2
    assert message in capsys.readouterr().err


# ---- how it looks ---------------------------------------------------------------------------


def drawn(renderable: Any, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.fixture
def busy(looks: list[Look | BaseException]) -> WatchedDeployment:
    return watched(
        looks, *(look(100 + 1.9 * number, 10 * number**2, hits=25 * number**2) for number in range(70))
    )[-1]


@pytest.mark.parametrize(("width", "types"), [(80, ""), (120, " (4,761 cancelled)")])
def test_a_wide_terminal_tells_failed_requests_apart(busy: WatchedDeployment, width: int, types: str) -> None:
    (line,) = (line for line in drawn(DeploymentView(busy), width) if line.startswith("requests"))
    assert line.endswith(f"47,610 finished   4,761 failed{types}")


@pytest.mark.parametrize("width", [80, 120])
def test_all_figures_of_a_disaggregated_deployment_fit(busy: WatchedDeployment, width: int) -> None:
    lines = drawn(DeploymentView(busy), width)
    assert max(map(len, lines)) <= width
    assert len(lines) == 13  # none goes over to the next
    assert lines[0] == "default  ready  disagg  qwen3-0.6b  http://127.0.0.1:8000"
    for begins, has in {
        "decode-0": ("ready", "0", "29.3 GiB", "2.9 GiB", "3", "1", "45%"),
        "prefill-0": ("ready", "1", "39.1 GiB", "2.9 GiB", "1", "0", "97%"),
        "requests": ("4 running", "1 waiting", "721/s", "47,610 finished", "4,761 failed"),
        "tokens": ("7,211/s in prompts", "72,105/s generated"),
        "latency": ("first token p50 150 ms, p95 195 ms", "between tokens p50 -, p95 -"),
        "LMCache": ("25% hits", "38% since the start", "▃▃▃"),
        "KV transfers": ("721/s", "721.1 MB/s", "47,610 since the start", "0 failed"),
        "GPU 0": ("60.0 of 79.6 GiB", "busy", "87%"),
        "GPU 1": ("0.7 of 79.6 GiB", "busy -"),
    }.items():
        line = next(line for line in lines if line.startswith(begins))
        assert all(word in line for word in has), line


def test_a_wide_terminal_shows_more_of_the_last_two_minutes(busy: WatchedDeployment) -> None:
    narrow, wide = (
        next(line for line in drawn(DeploymentView(busy), width) if "hits" in line) for width in (80, 120)
    )
    assert 8 <= narrow.count("▃") < wide.count("▃") == 60
    assert wide.endswith("1 min 54 s")
    columns = drawn(DeploymentView(busy), 120)[1].split()
    assert {"UPTIME", "RESTARTS"} <= set(columns)


def test_of_what_is_not_there_no_word_is_said() -> None:
    """Neither of a cache, nor of GPUs or transfers, nor of figures before there are any."""
    starting = look(0, answers=False)
    for unit in starting.status.units:
        vars(unit).update(state="starting", phase="loading weights", gpus=())
    vars(starting.status).update(state="starting", mode="agg")
    lines = drawn(DeploymentView(WatchedDeployment(starting.status)), 80)
    assert len(lines) == 5
    assert "GPU" not in lines[1]
    assert "starting: loading weights" in lines[2]


def test_what_is_wrong_is_said(busy: WatchedDeployment) -> None:
    vars(busy.status.units[1]).update(health="HTTP 503", restarts=2)
    vars(busy.status).update(error=Error(4, "it ended", "look\nagain"), warnings=("no cache",))
    lines = drawn(DeploymentView(busy), 120)
    assert lines[-4:] == ["error: it ended", "  look", "  again", "warning: no cache"]
    assert "HEALTH" in lines[1]
    assert "HTTP 503" in lines[3]


@pytest.mark.parametrize("width", [80, 120])
def test_several_deployments_have_a_line_each(
    looks: list[Look | BaseException], busy: WatchedDeployment, width: int
) -> None:
    gone = WatchedDeployment(_nothing("gone"))
    lines = drawn(Overview([busy, gone]), width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert lines[1].split()[:10] == [
        "default", "ready", "3/3", "4", "1", "721", "72,105", "150", "ms",
        "-" if width > 100 else "25%",
    ]  # fmt: skip
    assert lines[2].split()[:4] == ["gone", "stopped", "0/0", "-"]


def test_where_there_is_no_deployment_that_is_said() -> None:
    assert drawn(Overview([]), 80) == ["nothing is running"]


def test_a_terminal_shows_each_look_in_the_place_of_the_last(busy: WatchedDeployment) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=40, force_terminal=True, legacy_windows=False)
    with WatchDisplay(2.0, everything=False, out=console) as display:
        display.show([busy])
        display.show([busy])
    shown = out.getvalue()
    assert "\x1b[1A" in shown  # up again, to draw over it
    assert "every 2 s; Ctrl-C ends it" in shown
    assert shown.endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize(
    ("values", "width", "most", "blocks"),
    [
        ([0.0, 0.5, 1.0], 10, 1.0, "▁▅█"),
        ([0.0, None, 10.0, 5.0], 10, None, "▁ █▅"),
        ([1.0, 2.0, 4.0], 2, None, "▅█"),
        ([0.0, 0.0], 10, None, "▁▁"),
        ([None, None], 10, None, "  "),
        ([2.0], 10, 1.0, "█"),
        ([], 10, None, ""),
        ([1.0], 0, None, ""),
    ],
)
def test_a_sparkline(values: list[float | None], width: int, most: float | None, blocks: str) -> None:
    assert sparkline(values, width, most).plain == blocks


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0.0019, "1.9 ms"), (0.0123, "12 ms"), (0.34, "340 ms"), (1.239, "1.24 s")],
)
def test_seconds_as_people_read_them(seconds: float | None, words: str) -> None:
    assert draw_watch._seconds(seconds) == words


def test_bytes_as_people_read_them() -> None:
    assert [draw_watch._bytes(rate) for rate in (None, 0.0, 12.3e6, 4.56e9)] == [
        "-", "0.0 MB/s", "12.3 MB/s", "4.6 GB/s",
    ]  # fmt: skip


def test_a_rate_before_the_second_look_is_no_nought() -> None:
    assert draw_watch._per_second(None, "requests") == "-"
    assert draw_watch._per_second(Change(2, {"requests": 1}), "requests") == "0.5/s"
