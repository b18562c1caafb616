"""Variants of a deployment, brought up, measured and taken down in turn on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dynamoctl.answers.bench import CompareAnswer, Figures, VariantResult
from dynamoctl.answers.envelope import Error
from dynamoctl.bench import comparison, results, workloads
from dynamoctl.bench.variants import Variant
from dynamoctl.bench.workloads import Workload
from dynamoctl.errors import DynamoctlError, PreflightError
from dynamoctl.humanize import count, iso
from dynamoctl.operations import bench
from dynamoctl.operations.bench import Bench, Forget, OnProgress
from dynamoctl.operations.down import down
from dynamoctl.operations.load_generators import Load
from dynamoctl.operations.planning import plan_for_here
from dynamoctl.operations.up import up
from dynamoctl.state import DeploymentState, Folder

OnState = Callable[[DeploymentState], None]


@dataclass(frozen=True)
class Watching:
    """Who is told how far it is.

    Attributes:
        begins: called with the variant, the round and what it does next, in words.
        state: called with each state of the units on their way up or down.
        progress: called as the load goes on.
        model: called with (what, fraction done) while a model is prepared.
        so_far: called with what there is after each run that went well.
    """

    begins: Callable[[str, int, str], None]
    state: OnState
    progress: OnProgress
    model: Callable[[str, float], None]
    so_far: Callable[[Compared], None]


@dataclass
class Outcome:
    """What came of one variant.

    Attributes:
        deployment: the name under which it is brought up. (A variant's own may be no name of one.)
        runs: one for each round that it went through.
        ready_s: seconds to ready, of each.
        error: why there are no more runs.
    """

    variant: Variant
    deployment: str
    runs: list[Bench] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    error: DynamoctlError | None = None

    @property
    def pooled(self) -> Bench | None:
        """All its rounds as one; None where none went well."""
        if self.error is not None or not self.runs:
            return None
        return replace(self.runs[0], measured=comparison.pooled([one.measured for one in self.runs]))

    @property
    def figures(self) -> Figures | None:
        """What it is compared by."""
        one = self.pooled
        return comparison.figures(one.passes) if one else None


@dataclass(frozen=True)
class Compared:
    """All of them, measured with the same prompts."""

    workload: Workload
    seed: int
    load: Load
    repeat: int
    began: float
    outcomes: tuple[Outcome, ...]

    @property
    def failure(self) -> DynamoctlError | None:
        """Which failed, if any did."""
        failed = [one for one in self.outcomes if one.error]
        if not failed:
            return None
        lines = [line for one in failed for line in _words(one)]
        return DynamoctlError(
            f"{count(len(failed), 'variant')} of {len(self.outcomes)} failed", "\n".join(lines)
        )

    @property
    def answer(self) -> CompareAnswer:
        """What `bench compare` answers."""
        against = next((one for one in self.outcomes if one.figures), None)
        return CompareAnswer(
            began=iso(self.began),
            workload=workloads.as_json(self.workload, self.seed),
            concurrency=self.load.concurrency,
            request_rate=self.load.request_rate,
            repeat=self.repeat,
            against=against.variant.name if against else None,
            variants=tuple(_result(one, against) for one in self.outcomes),
        )


def compare(
    variants: Sequence[Variant],
    common: Mapping[str, Any],
    config: Path | None,
    workload: Workload,
    seed: int,
    load: Load,
    forget: Forget,
    repeat: int,
    watching: Watching,
) -> Compared:
    """Measure each variant. One that fails is left out of later rounds; the others go on.

    Every other round goes through them backwards, so that what changes on the machine with time (its
    temperature, a page cache that fills) falls on all alike.

    Args:
        common: what all have in common, by the spec's names.
        config: the TOML of those that have none of their own.

    Raises:
        KeyboardInterrupt: the user broke it off. What was up for it has been taken down; what was measured
            is with `watching`.
    """
    outcomes = tuple(Outcome(one, f"bench-{number}") for number, one in enumerate(variants, 1))
    compared = Compared(workload, seed, load, repeat, time.time(), outcomes)
    for number in range(repeat):
        for one in outcomes if number % 2 == 0 else reversed(outcomes):
            if one.error is not None:
                continue
            try:
                _once(one, number, common, config, workload, seed + number, load, forget, watching)
            except DynamoctlError as error:
                one.error = error
            else:
                watching.so_far(compared)
    return compared


def _once(
    one: Outcome,
    number: int,
    common: Mapping[str, Any],
    config: Path | None,
    workload: Workload,
    seed: int,
    load: Load,
    forget: Forget,
    watching: Watching,
) -> None:
    """One variant up, measured, and down.

    Raises:
        DynamoctlError: it did not come up, did not answer, or could not be taken down.
    """
    variant, name = one.variant, one.deployment
    watching.begins(variant.name, number, "starts")
    state = Folder(name).read_state()
    if state is not None and state.supervisor_lives:
        raise PreflightError(f"'{name}' is up already", f"take it down first: dynamoctl down -n {name}")
    planned = plan_for_here({**common, **variant.flags, "name": name}, variant.config or config)
    try:
        one.ready_s.append(up(planned, False, watching.state, watching.model).seconds)
        watching.begins(variant.name, number, "is measured")
        run = bench.run(name, workload, seed, load, forget, watching.progress)
    finally:
        watching.begins(variant.name, number, "is taken down")
        down(name, watching.state)
    if run.failure is not None:
        raise run.failure
    one.runs.append(run)


def _result(one: Outcome, against: Outcome | None) -> VariantResult:
    pooled, figures = one.pooled, one.figures
    to = against.figures if against else None
    return VariantResult(
        name=one.variant.name,
        ok=pooled is not None,
        ready_s=tuple(round(seconds, 1) for seconds in one.ready_s),
        figures=results.rounded(figures) if figures else None,
        ratios=comparison.ratios(figures, to) if figures and to else None,
        bench=pooled.answer if pooled else None,
        error=Error.of(one.error) if one.error else None,
    )


def _words(one: Outcome) -> list[str]:
    assert one.error is not None
    return [
        f"{one.variant.name}: {one.error.message}",
        *(f"  {line}" for line in one.error.hint.splitlines()),
    ]
