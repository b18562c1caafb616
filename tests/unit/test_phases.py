"""What a starting unit is doing, read from lines as the engines write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from dynamoctl.logs.phases import LogWatch, last_lines, root_cause

LINES = [
    (
        "(EngineCore pid=7) INFO 11-24 05:41:03 [core.py:109] Initializing a V1 LLM engine (v0.26.0)",
        "starting the engine",
    ),
    (
        "(Worker pid=1) INFO 11-24 05:41:07 [cpu_model_runner.py:72] Starting to load model /m...",
        "loading weights",
    ),
    (
        "(Worker pid=1) INFO 11-24 05:41:09 [backends.py:1010] Dynamo bytecode transform time: 2.16 s",
        "compiling",
    ),
    ("(Worker pid=1) INFO 11-24 05:41:09 [cpu_model_runner.py:96] Warming up model for", "warming up"),
    (
        "(EngineCore pid=7) INFO 11-24 05:41:10 [kv_cache_utils.py:1711] GPU KV cache size: 46,592 tokens",
        "sizing the KV cache",
    ),
    (
        "(Worker pid=1) INFO 11-24 [factory.py:64] Creating v1 connector with name: LMCacheMPConnector and",
        "connecting to the cache server",
    ),
    (
        "(Worker pid=1) INFO 11-24 [factory.py:64] Creating v1 connector with name: MultiConnector and",
        "setting up KV transfer",
    ),
    (
        "(Worker pid=1) INFO 11-24 [factory.py:64] Creating v1 connector with name: NixlConnector and",
        "setting up KV transfer",
    ),
    (
        "[2026-11-24 05:41:09] LMCache INFO: Creating LMCacheEngine with config: {'chunk_size': 256}",
        "pinning the cache",
    ),
    ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):   0%|", "capturing graphs"),
    ("2026-11-24T05:41:14Z  INFO main.register: Registering model with endpoint", "registering"),
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker-0.log"


def write(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize(("line", "phase"), LINES)
def test_a_line_begins_a_phase(log: Path, line: str, phase: str) -> None:
    watch = LogWatch(log)
    write(log, line + "\n")
    watch.read()
    assert watch.phase == phase


def test_a_unit_without_a_log_is_importing(log: Path) -> None:
    watch = LogWatch(log)
    watch.read()
    assert watch.phase == "importing"


def test_a_later_line_wins(log: Path) -> None:
    watch = LogWatch(log)
    write(log, "".join(f"{line}\n" for line, _ in LINES))
    watch.read()
    assert watch.phase == "registering"


def test_a_line_is_read_when_it_is_whole(log: Path) -> None:
    watch = LogWatch(log)
    write(log, "(Worker pid=1) INFO Starting to lo")
    watch.read()
    assert watch.phase == "importing"
    write(log, "ad model /m\nCapturing CUDA gr")
    watch.read()
    assert watch.phase == "loading weights"


def test_lines_of_an_earlier_start_do_not_count(log: Path) -> None:
    write(log, "Registering model with endpoint\nSystem will operate in degraded mode\n")
    watch = LogWatch(log)
    watch.read()
    assert (watch.phase, watch.degraded) == ("importing", "")


LEASE_LOST = (
    "\x1b[31mERROR\x1b[0m dynamo_runtime::transports::etcd::lease\x1b[2m:\x1b[0m Unable to maintain lease."
    " Check etcd server status\n"
)


def test_a_lease_that_has_run_out(log: Path) -> None:
    watch = LogWatch(log)
    assert not watch.lost_lease()
    write(log, "Registering model with endpoint\n")
    assert not watch.lost_lease()
    write(log, LEASE_LOST + "Runtime shutdown initiated\n")
    assert watch.lost_lease()
    assert not LogWatch(log).lost_lease()  # the start after it
    log.write_text(LEASE_LOST)
    assert watch.lost_lease()


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: Free memory on device cuda:0 (11.32/139.8 GiB) on startup is less than desired GPU"
        " memory utilization (0.92, 128.6 GiB). Decrease GPU memory utilization.",
        "AssertionError: Error in memory profiling. Initial free memory 11.3 GiB, current 60 GiB.",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 24.00 GiB.",
        "ValueError: No available memory for the cache blocks.",
    ],
)
def test_an_engine_that_cannot_have_its_gpu_memory(log: Path, line: str) -> None:
    watch = LogWatch(log)
    write(log, "Starting to load model /m\n")
    watch.read()
    assert watch.no_gpu_memory == ""
    write(log, f"(EngineCore pid=1) ERROR {line}\n")
    watch.read()
    assert line in watch.no_gpu_memory


def test_colours_do_not_hide_a_phase(log: Path) -> None:
    watch = LogWatch(log)
    write(log, "\x1b[36m(Worker pid=1)\x1b[0m INFO Starting \x1b[1mto load model /m\n")
    watch.read()
    assert watch.phase == "loading weights"


def test_a_log_that_was_emptied_is_read_from_its_beginning(log: Path) -> None:
    write(log, "x" * 200 + "\n")
    watch = LogWatch(log)
    log.write_text("Capturing CUDA graphs\n")
    watch.read()
    assert watch.phase == "capturing graphs"


def test_bytes_that_are_no_text_do_no_harm(log: Path) -> None:
    log.write_bytes(b"")
    watch = LogWatch(log)
    log.write_bytes(b"\xff\xfe\nCapturing CUDA graphs\n")
    watch.read()
    assert watch.phase == "capturing graphs"


def test_the_first_line_about_degraded_mode_is_kept(log: Path) -> None:
    watch = LogWatch(log)
    first = "LMCache ERROR: Failed to initialize. System will operate in degraded mode (recompute)."
    write(log, f"INFO all is well\n\x1b[31m{first}\x1b[0m\nWARNING Degraded mode again\n")
    watch.read()
    assert watch.degraded == first


def test_the_line_about_missing_kernels_is_kept(log: Path) -> None:
    watch = LogWatch(log)
    line = (
        "LMCache WARNING: lmcache.c_ops compiled extension not found;"
        " CudaDeviceOps stays on the torch baseline for all ops."
    )
    write(log, f"INFO all is well\n{line}\n")
    watch.read()
    assert watch.no_kernels == line


def test_the_line_about_a_taken_status_port_is_kept(log: Path) -> None:
    """The worker runs on without it, and would never be ready."""
    watch = LogWatch(log)
    line = "ERROR dynamo_runtime: System status server startup failed: Address already in use"
    write(log, line + "\n")
    watch.read()
    assert watch.port_lost == line


def test_the_end_of_a_log_without_colours_and_empty_lines(log: Path) -> None:
    write(log, "\x1b[31mone\x1b[0m\n\n   \ntwo  \nthree\n")
    assert last_lines(log) == ["one", "two", "three"]
    assert last_lines(log, 2) == ["two", "three"]


def test_the_end_of_a_long_log_is_bounded(log: Path) -> None:
    write(log, "".join(f"line {i}\n" for i in range(20_000)) + "x" * 1000 + "\n")
    lines = last_lines(log)
    assert len(lines) == 12
    assert lines[-2:] == ["line 19999", "x" * 300]


def test_a_log_that_is_not_there_has_no_end(log: Path) -> None:
    assert last_lines(log) == []


# As vLLM 0.31 ends when a Worker process cannot do what it is told.
ENDS = """\
(Worker pid=9) ERROR 11-30 03:37:24 [multiproc_executor.py:948] Traceback (most recent call last):
(Worker pid=9) ERROR 11-30 03:37:24 [multiproc_executor.py:948]     raise ValueError(
(Worker pid=9) ERROR 11-30 03:37:24 [multiproc_executor.py:948] ValueError: Layer 0 cannot be handled
(EngineCore pid=7) ERROR 11-30 03:37:24 [core.py:1433] RuntimeError: see above for the root cause
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
2026-11-30T03:37:29.021659Z  INFO _core: tasks still running at interpreter exit
"""


def test_the_error_that_the_last_lines_refer_to_is_found(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    log.write_text("OSError: of before\n" + ENDS)
    assert root_cause(log) == "ValueError: Layer 0 cannot be handled"


def test_a_log_that_refers_to_nothing_has_no_cause_but_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    for text in ("ValueError: no\nTraceback\n", "See root cause above\n", ENDS + "still alive\n" * 12, ""):
        log.write_text(text)
        assert root_cause(log) == ""
    assert root_cause(tmp_path / "none.log") == ""


NOT_LISTED = {
    "text": "\x1b[33m WARN\x1b[0m dynamo_llm::discovery::controller: Model materialization failed; scheduling"
    ' retry group=["m","[\\"ns\\",\\"chat|completions\\"]"] attempt=1 retry_ms=1000 error="no template"',
    "JSON": '{"level":"WARN","message":"Model materialization failed; scheduling retry","attempt":1,'
    '"error":"no template","group":"[\\"m\\",\\"chat|completions\\"]","retry_ms":"1000"}',
    "Dynamo 1.4": "ERROR dynamo_llm::discovery::watcher: Error adding model from discovery error=no template",
}


@pytest.mark.parametrize("line", NOT_LISTED.values(), ids=NOT_LISTED)
def test_why_a_frontend_cannot_list_a_model(log: Path, line: str) -> None:
    watch = LogWatch(log)
    write(log, f"{line}\nsomething else\n{line}\n")
    watch.read()
    assert (watch.not_listed, watch.times_not_listed) == ("no template", 2)
    write(log, line.replace("no template", "no tokenizer") + "\n")
    watch.read()
    assert (watch.not_listed, watch.times_not_listed) == ("no tokenizer", 1)
