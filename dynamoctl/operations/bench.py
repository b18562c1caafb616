"""What a running deployment does under a workload: latencies as a client sees them, hits and transfers as the
units count them.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dynamoctl.answers.bench import BenchAnswer, BenchLMCache, BenchWorker, PassCounts, PassResult
from dynamoctl.bench import results, workloads
from dynamoctl.bench.results import Measurement
from dynamoctl.bench.workloads import Pass, Workload
from dynamoctl.errors import DynamoctlError, NotReadyError, SpecError
from dynamoctl.host.facts import versions
from dynamoctl.humanize import count, iso
from dynamoctl.monitoring import cache_probe, observe, rates
from dynamoctl.operations import load_generators
from dynamoctl.operations.load_generators import Load
from dynamoctl.operations.serving import serving_plan
from dynamoctl.operations.status import Look, look
from dynamoctl.planner.plan import DeploymentPlan
from dynamoctl.state import write_whole

# How the engines' own prefix caches lose the documents: they are emptied, or hold fewer than there are.
Forget = Literal["reset", "fill"]

# Engines publish their counters, and LMCache stores, a step after the last answer.
_SETTLE_S = 1.0
# A block that is still being stored keeps a prefix cache from being emptied.
_RESET_TRIES = 10
_TOO_LONG = "the prompts may be longer than the model takes (--max-model-len)"
# So many times what the caches hold: blocks that are in use are not the first to go.
_FILL = 1.1


@dataclass(frozen=True)
class Progress:
    """How far a bench is.

    Attributes:
        label: the pass that runs.
        done, total: requests, of all passes.
        left_s: seconds that the rest will take at the pace so far; None before the first answer.
    """

    label: str
    done: int
    total: int
    left_s: float | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Bench:
    """A workload on a deployment, measured.

    Attributes:
        forgotten: how the engines' own prefix caches lost what they had; None where they kept it.
    """

    plan: DeploymentPlan
    workload: Workload
    seed: int
    load: Load
    forgotten: Forget | None
    began: float
    measured: tuple[Measurement, ...]

    @property
    def passes(self) -> list[PassResult]:
        """The figures."""
        return [results.summed_up(one) for one in self.measured]

    @property
    def failure(self) -> DynamoctlError | None:
        """What failed, if anything did."""
        errors: dict[str, int] = {}
        for one in self.passes:
            for words, times in one.errors.items():
                errors[words] = errors.get(words, 0) + times
        if not errors:
            return None
        asked = sum(len(one.answered) for one in self.measured)
        return DynamoctlError(
            f"{sum(errors.values())} of {count(asked, 'request')} failed",
            "\n".join(
                [
                    *(f"{times} times: {words}" for words, times in errors.items()),
                    *([_TOO_LONG] if "Bad Request" in errors else []),
                    f"see: dynamoctl status -n {self.plan.name}, and dynamoctl logs -n {self.plan.name}",
                ]
            ),
        )

    @property
    def answer(self) -> BenchAnswer:
        """What `bench` answers."""
        plan, passes = self.plan, self.passes
        # Only there a later pass asks for what the first did; a later turn asks for more.
        faster = results.times_faster(passes) if self.forgotten else None
        return BenchAnswer(
            name=plan.name,
            mode=plan.mode,
            model=plan.model,
            device=plan.device,
            engine=plan.engine,
            workers=tuple(BenchWorker(unit.name, unit.gpus) for unit in plan.workers),
            lmcache=_lmcache(plan),
            tool=self.load.tool,
            versions=versions(),
            began=iso(self.began),
            workload=workloads.as_json(self.workload, self.seed),
            concurrency=self.load.concurrency,
            request_rate=self.load.request_rate,
            forgotten_by=self.forgotten,
            passes=tuple(map(results.rounded, passes)),
            ttft_times_faster=None if faster is None else round(faster, 2),
        )


def run(
    name: str, workload: Workload, seed: int, load: Load, forget: Forget, on_progress: OnProgress
) -> Bench:
    """Send a workload to a running deployment. It ends with the first pass in which a request fails.

    Raises:
        SpecError: nothing of this name runs; or the documents fit into the caches that they should fill.
        NotReadyError: it does not serve now, or an engine's prefix cache cannot be emptied.
        DynamoctlError: its plan is missing or damaged, or the load generator cannot measure.
    """
    plan = serving_plan(name)
    passes = workload.in_passes(seed)
    forgets = any(one.forget for one in passes)
    if forgets and forget == "fill":
        _require_more_than_fits(plan, passes[0])
    clock = _Clock(passes, on_progress)
    began, measured = time.time(), []
    for one in passes:
        if one.forget and forget == "reset":
            _empty_prefix_caches(plan)
        measured.append(_measure(plan, one, load, clock))
        if measured[-1].failed:
            break
    return Bench(plan, workload, seed, load, forget if forgets else None, began, tuple(measured))


def write(path: Path, body: dict[str, Any]) -> None:
    """Write a result, whole or not at all.

    Raises:
        DynamoctlError: it cannot be written.
    """
    try:
        write_whole(path, json.dumps(body, indent=2) + "\n")
    except OSError as error:
        raise DynamoctlError(f"cannot write {path}: {error.strerror}", "name another file") from None


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """A result that was written: what it is of (`bench`, `bench-compare`, `bench-tune`), and its body.

    Raises:
        SpecError: the file is not such a result.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        _, kind, version = body.pop("schema").split("/")
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, AttributeError, KeyError, TypeError):
        kind, version, body = "", "", {}
    if version != "v1" or kind not in ("bench", "bench-compare", "bench-tune"):
        raise SpecError(f"{path} holds no result of a bench", "name a file that --output has written")
    body.pop("ok", None)
    return kind, body


class _Clock:
    """Counts requests over all passes and the time that they take."""

    def __init__(self, passes: tuple[Pass, ...], on_progress: OnProgress) -> None:
        self._total = sum(len(one.requests) for one in passes)
        self._on_progress = on_progress
        self._before, self._spent_s = 0, 0.0
        self._label, self._began, self._done = "", 0.0, 0

    def begin(self, label: str) -> None:
        """A pass begins."""
        self._label, self._began, self._done = label, 0.0, 0
        self._on_progress(Progress(label, self._before, self._total))

    def done(self, number: int) -> None:
        """So many of the pass's requests have been answered: 0 when the first is sent."""
        now = time.monotonic()
        self._began = self._began or now
        self._done = number
        done, spent = self._before + number, self._spent_s + now - self._began
        left = spent / done * (self._total - done) if 0 < done < self._total else None
        self._on_progress(Progress(self._label, done, self._total, left))

    def end(self) -> None:
        """The pass has ended."""
        self._before += self._done
        self._spent_s += time.monotonic() - self._began if self._began else 0.0


def _measure(plan: DeploymentPlan, one: Pass, load: Load, clock: _Clock) -> Measurement:
    before = look(plan.name)
    clock.begin(one.label)
    with tempfile.TemporaryDirectory(prefix="dynamoctl-bench-") as folder:
        seconds, answered = load_generators.send(plan, one.requests, load, Path(folder), clock.done)
    clock.end()
    time.sleep(_SETTLE_S)
    return Measurement(one.label, seconds, tuple(answered), _counted(before, look(plan.name)))


def _counted(before: Look, after: Look) -> PassCounts:
    """What the units counted between two looks, and what they hold at the second."""
    first, last = _sample(before), _sample(after)
    came = rates.change(first, last).counters if first and last else {}

    def whole(name: str) -> int | None:
        return int(came[name]) if name in came else None

    return PassCounts(
        lmcache_hit_tokens=whole("hit_tokens"),
        lmcache_requested_tokens=whole("requested_tokens"),
        prefix_hit_tokens=whole("prefix_hit_tokens"),
        prefix_requested_tokens=whole("prefix_requested_tokens"),
        transfers=whole("transfers") or 0,
        transferred_bytes=whole("transferred_bytes") or 0,
        failed_transfers=whole("failed_transfers") or 0,
        memory_mib={unit.name: unit.memory_mib for unit in after.status.units if unit.memory_mib is not None},
        gpu_memory_mib={gpu.gpu: gpu.memory_used_mib for gpu in after.status.gpus},
    )


def _sample(seen: Look) -> rates.Sample | None:
    if seen.state is None or seen.answer is None:
        return None
    started = {unit.name: unit.started_at for unit in seen.state.units}
    return rates.sample(float(seen.answer["taken_at"]), started, seen.answer)


def _empty_prefix_caches(plan: DeploymentPlan) -> None:
    async def empty() -> bool:
        for _ in range(_RESET_TRIES):
            if await cache_probe.clear_prefix_caches(plan):
                return True
            await asyncio.sleep(_SETTLE_S)
        return False

    if not asyncio.run(empty()):
        raise NotReadyError(
            f"the engines of '{plan.name}' do not empty their own prefix caches",
            "take more documents than they hold: --forget fill",
        )


def _require_more_than_fits(plan: DeploymentPlan, one: Pass) -> None:
    holds = asyncio.run(observe.kv_cache_tokens(plan))
    tokens = sum(request.input_tokens for request in one.requests)
    if not holds:
        raise NotReadyError(
            f"the engines of '{plan.name}' do not say how much their own prefix caches hold",
            "have them emptied: --forget reset",
        )
    if tokens < holds * _FILL:
        wanted = -(-int(holds * _FILL) // max(1, tokens // len(one.requests)))
        raise SpecError(
            f"the documents' {tokens:,} tokens fit into the engines' own prefix caches, which hold {holds:,}",
            f"take more (--documents {wanted}), longer ones, or --forget reset",
        )


def _lmcache(plan: DeploymentPlan) -> BenchLMCache | None:
    if plan.lmcache is None:
        return None
    settings = {one.name: one.value for one in plan.lmcache_settings}
    tiers = tuple(tier.kind for tier in plan.lmcache_tiers)
    return BenchLMCache(plan.lmcache, int(settings["chunk_size"]), plan.lmcache_cpu_gib, tiers)
