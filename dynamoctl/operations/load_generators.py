"""The programs that make the load: each sends requests to a deployment and says how they were answered.

They are the field's own. What they cannot say, the units' counters do (`operations.bench`).
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamoctl.bench import results, workloads
from dynamoctl.bench.results import Answered
from dynamoctl.bench.workloads import Request
from dynamoctl.errors import DynamoctlError
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.supervisor import process

# Of tqdm's line: 3/8 [00:12<00:20, ...
_PROGRESS = re.compile(r"\b(\d+)/(\d+) \[")
_LAST_LINES = 8
# Not for the load generator: it asks the loopback without a proxy, has no key, and must not touch a GPU.
_UNSET = ("http_proxy", "https_proxy", "all_proxy", "openai_api_key")

OnDone = Callable[[int], None]


@dataclass(frozen=True)
class Load:
    """How requests are sent.

    Attributes:
        concurrency: how many at a time, at most.
        request_rate: how many begin in a second, on average (Poisson); None: each as soon as it may.
    """

    concurrency: int = 1
    request_rate: float | None = None


def vllm_bench_serve(
    plan: DeploymentPlan, requests: Sequence[Request], load: Load, folder: Path, on_done: OnDone
) -> tuple[float, list[Answered]]:
    """Send the requests with `vllm bench serve`, in the engine's environment.

    Args:
        folder: an empty one.
        on_done: called with the number of requests that have been answered.

    Returns:
        Seconds from the first request to the last answer, and each request.

    Raises:
        DynamoctlError: it cannot measure. (A request that fails is no error here.)
    """
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
    # It makes text of a block's number by way of Python's hash, which must be the same in every pass.
    environ = _environment(plan) | {"PYTHONHASHSEED": "0"}
    lines = _run(argv, environ, folder, on_done)
    try:
        return results.read_vllm(json.loads(result.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise DynamoctlError(
            f"vllm bench serve left no result ({type(error).__name__})", "\n".join(lines)
        ) from None


def _environment(plan: DeploymentPlan) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name.lower() not in _UNSET}
    hub = {"HF_HUB_OFFLINE": "1"} if Path(plan.model_path).is_dir() else {}
    return {**own, **hub, "CUDA_VISIBLE_DEVICES": ""}


def _run(argv: Sequence[str], environ: dict[str, str], folder: Path, on_done: OnDone) -> list[str]:
    """Run it to its end; give back its last lines.

    Raises:
        DynamoctlError: it failed.
    """
    last: deque[str] = deque(maxlen=_LAST_LINES)

    def heard(line: str) -> None:
        if marks := _PROGRESS.findall(line):
            on_done(int(marks[-1][0]))
        elif line.strip():
            last.append(line)

    try:
        code = process.follow(argv, environ, folder, heard)
    except OSError as error:
        raise DynamoctlError(f"cannot start {argv[0]}: {error.strerror}") from None
    if code != 0:
        raise DynamoctlError(f"the load generator failed ({process.how_it_ended(code)})", "\n".join(last))
    return list(last)
