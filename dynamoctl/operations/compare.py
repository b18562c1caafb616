"""Compare variants of a deployment: bring each up, measure it and take it down on this machine."""

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
from dynamoctl.state import DeploymentDir, DeploymentState

OnState = Callable[[DeploymentState], None]


@dataclass(frozen=True)
class Watching:
    """Callbacks that report the progress of a comparison.

    Attributes:
        begins: called with the variant, the round (from 0) and the next step, in words.
        state: called with each new state while units start or stop.
        progress: called with the progress of the load.
        model: called with (step, fraction done) while a model is prepared.
        so_far: called with the results so far after each successful run.
    """

    begins: Callable[[str, int, str], None]
    state: OnState
    progress: OnProgress
    model: Callable[[str, float], None]
    so_far: Callable[[Comparison], None]


@dataclass
class Outcome:
    """The results of one variant.

    Attributes:
        variant: the variant.
        deployment: the name of its deployment. (A variant's name may not be valid for a deployment.)
        runs: its successful runs, one for each round.
        ready_s: seconds until the deployment was ready, for each round.
        error: why there are no more runs; None if all succeeded.
    """

    variant: Variant
    deployment: str
    runs: list[Bench] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    error: DynamoctlError | None = None

    @property
    def pooled(self) -> Bench | None:
        """All rounds merged into one; None if a round failed or none is finished."""
        if self.error is not None or not self.runs:
            return None
        return replace(self.runs[0], measured=comparison.pooled([run.measured for run in self.runs]))

    @property
    def figures(self) -> Figures | None:
        """The figures by which variants are compared; None if there is no result."""
        pooled = self.pooled
        return comparison.figures(pooled.passes) if pooled else None


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison, in which all variants got the same prompts.

    Attributes:
        seed: seed of the first round's prompts; each later round adds 1.
        repeat: number of rounds.
        began: start time, in seconds since the epoch.
    """

    workload: Workload
    seed: int
    load: Load
    repeat: int
    began: float
    outcomes: tuple[Outcome, ...]

    @property
    def failure(self) -> DynamoctlError | None:
        """An error that lists the failed variants; None if none failed."""
        failed = [outcome for outcome in self.outcomes if outcome.error]
        if not failed:
            return None
        lines = [line for outcome in failed for line in _error_lines(outcome)]
        return DynamoctlError(
            f"{count(len(failed), 'variant')} of {len(self.outcomes)} failed", "\n".join(lines)
        )

    @property
    def answer(self) -> CompareAnswer:
        """What `bench compare` answers."""
        against = next((outcome for outcome in self.outcomes if outcome.figures), None)
        return CompareAnswer(
            began=iso(self.began),
            workload=workloads.as_json(self.workload, self.seed),
            concurrency=self.load.concurrency,
            request_rate=self.load.request_rate,
            repeat=self.repeat,
            against=against.variant.name if against else None,
            variants=tuple(_result(outcome, against) for outcome in self.outcomes),
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
) -> Comparison:
    """Measure all variants. A variant that fails is left out of later rounds; the others continue.

    Every second round runs in reverse order, so that slow changes of the machine (temperature, a page cache
    that fills) affect all variants equally.

    Args:
        common: settings that all variants share, by the spec's names.
        config: the TOML file of variants without their own.
        repeat: number of rounds.

    Raises:
        KeyboardInterrupt: the user interrupted it. Its deployment has been taken down, and `watching` has
            got the results so far.
    """
    outcomes = tuple(Outcome(variant, f"bench-{number}") for number, variant in enumerate(variants, 1))
    compared = Comparison(workload, seed, load, repeat, time.time(), outcomes)
    for number in range(repeat):
        for outcome in outcomes if number % 2 == 0 else reversed(outcomes):
            if outcome.error is not None:
                continue
            try:
                _once(outcome, number, common, config, workload, seed + number, load, forget, watching)
            except DynamoctlError as error:
                outcome.error = error
            else:
                watching.so_far(compared)
    return compared


def _once(
    outcome: Outcome,
    number: int,
    common: Mapping[str, Any],
    config: Path | None,
    workload: Workload,
    seed: int,
    load: Load,
    forget: Forget,
    watching: Watching,
) -> None:
    """Bring one variant up, measure it and take it down.

    Raises:
        DynamoctlError: it did not become ready, a request failed, or it could not be taken down.
    """
    variant, name = outcome.variant, outcome.deployment
    watching.begins(variant.name, number, "starts")
    state = DeploymentDir(name).read_state()
    if state is not None and state.supervisor_lives:
        raise PreflightError(f"'{name}' is up already", f"take it down first: dynamoctl down -n {name}")
    planned = plan_for_here({**common, **variant.flags, "name": name}, variant.config or config)
    try:
        outcome.ready_s.append(up(planned, False, watching.state, watching.model).seconds)
        watching.begins(variant.name, number, "is measured")
        run = bench.run(name, workload, seed, load, forget, watching.progress)
    finally:
        watching.begins(variant.name, number, "is taken down")
        down(name, watching.state)
    if run.failure is not None:
        raise run.failure
    outcome.runs.append(run)


def _result(outcome: Outcome, against: Outcome | None) -> VariantResult:
    pooled, figures = outcome.pooled, outcome.figures
    to = against.figures if against else None
    return VariantResult(
        name=outcome.variant.name,
        ok=pooled is not None,
        ready_s=tuple(round(seconds, 1) for seconds in outcome.ready_s),
        figures=results.rounded(figures) if figures else None,
        ratios=comparison.ratios(figures, to) if figures and to else None,
        bench=pooled.answer if pooled else None,
        error=Error.of(outcome.error) if outcome.error else None,
    )


def _error_lines(outcome: Outcome) -> list[str]:
    assert outcome.error is not None
    return [
        f"{outcome.variant.name}: {outcome.error.message}",
        *(f"  {line}" for line in outcome.error.hint.splitlines()),
    ]
