"""Load generators: programs that send requests to a deployment and measure the answers.

They are established tools. What they cannot measure comes from the units' counters (`operations.bench`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamoctl.bench import results, workloads
from dynamoctl.bench.results import RequestResult
from dynamoctl.bench.workloads import Request
from dynamoctl.errors import DynamoctlError, PreflightError, SpecError
from dynamoctl.host.models import cache_home
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.processes import process_control

# Matches tqdm's lines (3/8 [00:12<00:20, ...) and AIPerf's (Profiling: 3/8 |...).
_PROGRESS = re.compile(r"\b(\d+)/\d+ \[|Profiling: (\d+)/\d+ ")
_LAST_LINES = 8
# AIPerf needs its own environment: it requires other versions of packages that the engine uses.
_AIPERF = "aiperf==0.13.0"
# Variables that a load generator does not get: it uses the loopback without a proxy, and needs no API key.
_UNSET = ("http_proxy", "https_proxy", "all_proxy", "openai_api_key")

OnDone = Callable[[int], None]


@dataclass(frozen=True)
class Load:
    """How requests are sent.

    Attributes:
        concurrency: largest number of concurrent requests.
        request_rate: mean number of requests started per second (Poisson); None to start each as soon as the
            concurrency allows.
        aiperf: AIPerf's program; None to use `vllm bench serve`.
    """

    concurrency: int = 1
    request_rate: float | None = None
    aiperf: Path | None = None

    @property
    def tool(self) -> str:
        """The name of the load generator."""
        return "vllm bench serve" if self.aiperf is None else "aiperf"


def send(
    plan: DeploymentPlan, requests: Sequence[Request], load: Load, folder: Path, on_done: OnDone
) -> tuple[float, list[RequestResult]]:
    """Send the requests.

    Args:
        folder: an empty folder for the load generator's files.
        on_done: called with the number of requests answered so far.

    Returns:
        Seconds from the first request to the last answer, and the requests.

    Raises:
        DynamoctlError: the load generator failed. (A failed request is not an error here.)
    """
    if load.aiperf is not None:
        return _aiperf(load.aiperf, plan, requests, load, folder, on_done)
    return _vllm_bench_serve(plan, requests, load, folder, on_done)


def _vllm_bench_serve(
    plan: DeploymentPlan, requests: Sequence[Request], load: Load, folder: Path, on_done: OnDone
) -> tuple[float, list[RequestResult]]:
    """Run `vllm bench serve` in the engine's environment."""
    trace, result = folder / "trace.jsonl", folder / "result.json"
    trace.write_text(workloads.trace(requests), encoding="utf-8")
    argv = [
        plan.workers[0].argv[0], "-m", "dynamoctl.bench.vllm_serve",
        "--backend", "openai",
        "--base-url", plan.endpoint,
        "--model", plan.model,
        "--tokenizer", plan.model_path,
        "--dataset-name", "timed_trace",
        "--dataset-path", str(trace),
        "--timed-trace-chunk-hash-size", str(workloads.BLOCK),
        "--no-self-timed",
        "--num-prompts", str(len(requests)),
        "--max-concurrency", str(load.concurrency),
        "--request-rate", "inf" if load.request_rate is None else str(load.request_rate),
        "--temperature", "0",
        "--save-result", "--save-detailed",
        "--result-dir", str(folder),
        "--result-filename", result.name,
    ]  # fmt: skip
    # It makes a block's text from its number with Python's hash, which must be the same in every pass.
    environ = _environment(plan) | {"PYTHONHASHSEED": "0"}
    lines = _run(argv, environ, folder, on_done)
    try:
        return results.read_vllm(json.loads(result.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise DynamoctlError(
            f"vllm bench serve left no result ({type(error).__name__})", "\n".join(lines)
        ) from None


def _aiperf(
    program: Path,
    plan: DeploymentPlan,
    requests: Sequence[Request],
    load: Load,
    folder: Path,
    on_done: OnDone,
) -> tuple[float, list[RequestResult]]:
    """Run AIPerf (0.13) in its own environment. It exits with 0 even if requests fail; its records say so."""
    trace = folder / "trace.jsonl"
    trace.write_text(workloads.text_trace(requests), encoding="utf-8")
    argv = [
        str(program), "profile",
        "--model", plan.model,
        "--tokenizer", plan.model_path,
        "--url", plan.endpoint,
        "--endpoint-type", "completions",
        "--streaming",
        "--input-file", str(trace),
        "--custom-dataset-type", "mooncake_trace",
        "--no-fixed-schedule",
        "--dataset-sampling-strategy", "sequential",
        "--request-count", str(len(requests)),
        "--concurrency", str(load.concurrency),
        *([] if load.request_rate is None else ["--request-rate", str(load.request_rate)]),
        "--use-server-token-count",
        "--extra-inputs", json.dumps({"ignore_eos": True, "temperature": 0}),
        "--export-level", "records",
        "--output-artifact-dir", str(folder / "artifacts"),
        "--ui", "simple",
        "--no-server-metrics", "--no-gpu-telemetry",
    ]  # fmt: skip
    # With HF_HUB_OFFLINE, AIPerf does not read a local folder either.
    environ = _environment(plan)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTHONPATH"):
        environ.pop(name, None)
    lines = _run(argv, environ, folder, on_done)
    try:
        records = (folder / "artifacts" / "profile_export.jsonl").read_text(encoding="utf-8")
        return results.read_aiperf(records.splitlines())
    except (OSError, ValueError, KeyError) as error:
        raise DynamoctlError(f"AIPerf left no records ({type(error).__name__})", "\n".join(lines)) from None


def find_aiperf(named: Path | None, on_install: Callable[[Path], None]) -> Path:
    """The path of AIPerf's program: `named`, or the one in dynamoctl's cache, installed there if missing.

    Args:
        on_install: called with the folder before an installation.

    Raises:
        SpecError: `named` is not a program.
        PreflightError: AIPerf cannot be installed.
    """
    if named is not None:
        if not os.access(named, os.X_OK) or named.is_dir():
            raise SpecError(
                f"there is no program {named}", "give the path of AIPerf, as in ENVIRONMENT/bin/aiperf"
            )
        return named.absolute()
    folder = cache_home() / _AIPERF.replace("==", "-")
    program, completed = folder / "bin" / "aiperf", folder / "installed"
    if not completed.exists():
        on_install(folder)
        _install(folder)
        completed.touch()
    return program


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted installation
    python = str(folder / "bin" / "python")
    if uv := shutil.which("uv"):
        steps = [
            [uv, "venv", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--python", python, _AIPERF],
        ]
    else:
        steps = [[sys.executable, "-m", "venv", str(folder)], [python, "-m", "pip", "install", _AIPERF]]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for argv in steps:
            _run(argv, dict(os.environ), folder.parent, lambda _: None)
    except (OSError, DynamoctlError) as error:
        hint = f"{error.hint}\n" if isinstance(error, DynamoctlError) else ""
        raise PreflightError(
            f"cannot install {_AIPERF} into {folder}",
            f"{hint}install it elsewhere and give the path of its program: --aiperf PROGRAM",
        ) from None


def _environment(plan: DeploymentPlan) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name.lower() not in _UNSET}
    hub = {"HF_HUB_OFFLINE": "1"} if Path(plan.model_path).is_dir() else {}
    return {**own, **hub, "CUDA_VISIBLE_DEVICES": ""}


def _run(argv: Sequence[str], environ: dict[str, str], folder: Path, on_done: OnDone) -> list[str]:
    """Run a program to its end; return its last lines.

    Raises:
        DynamoctlError: it cannot be started, or it failed.
    """
    last: deque[str] = deque(maxlen=_LAST_LINES)

    def on_line(line: str) -> None:
        if marks := _PROGRESS.findall(line):
            on_done(int(marks[-1][0] or marks[-1][1]))
        elif line.strip():
            last.append(line)

    try:
        code = process_control.follow(argv, environ, folder, on_line)
    except OSError as error:
        raise DynamoctlError(f"cannot start {argv[0]}: {error.strerror}") from None
    if code != 0:
        raise DynamoctlError(
            f"the load generator failed ({process_control.how_it_ended(code)})", "\n".join(last)
        )
    return list(last)
