"""Sweep LMCache's chunk size and memory for a workload, and set the best values in the user's TOML file."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamoctl.answers.bench import TuneAnswer, TuneVariantResult, VariantResult
from dynamoctl.bench import comparison, toml_edit, variants
from dynamoctl.bench.workloads import Workload
from dynamoctl.config.choices import CONFIG_NAME
from dynamoctl.config.load import load_spec
from dynamoctl.errors import DynamoctlError, SpecError
from dynamoctl.operations.bench import Forget
from dynamoctl.operations.compare import Comparison, Outcome, Watching, compare
from dynamoctl.operations.load_generators import Load
from dynamoctl.operations.planning import find_config
from dynamoctl.state import write_whole


@dataclass(frozen=True)
class TuningResult:
    """The result of a sweep.

    Attributes:
        compared: the results of all variants.
        best: the variant with the shortest time to first token; None if all failed.
        values: the best variant's keys of `[lmcache]`.
        path: the TOML file.
        written: whether the values were written to it.
    """

    compared: Comparison
    best: str | None
    values: Mapping[str, int | float]
    path: Path
    written: bool

    @property
    def answer(self) -> TuneAnswer:
        """What `bench tune` answers."""
        compared = dict(vars(self.compared.answer))
        variants = tuple(_result(one) for one in compared.pop("variants"))
        return TuneAnswer(
            **compared,
            variants=variants,
            best=self.best,
            values=dict(self.values),
            config=str(self.path),
            written=self.written,
        )


def tune(
    config: Path | None,
    common: Mapping[str, Any],
    chunk_sizes: Sequence[int],
    cpu_gbs: Sequence[float],
    workload: Workload,
    seed: int,
    load: Load,
    forget: Forget,
    repeat: int,
    write: bool,
    watching: Watching,
) -> TuningResult:
    """Measure each chunk size with each cache size, and write the best values to the TOML file.

    Args:
        config: the TOML file; None for `dynamoctl.toml` in the working folder.
        common: settings that all variants share, by the spec's names.
        chunk_sizes: in tokens.
        cpu_gbs: cache sizes in GiB, as `cpu_gb` in the TOML file; empty to leave the size unchanged.
        repeat: number of rounds.
        write: whether to write the values.

    Raises:
        SpecError: there is no TOML file, LMCache is off in it, or its keys cannot be set.
        PreflightError: tomlkit is not installed.
        DynamoctlError: the file cannot be written.
    """
    path = find_config(config)
    if path is None:
        raise SpecError(f"there is no {CONFIG_NAME} here to tune", "make one with: dynamoctl init")
    if not load_spec({}, {}, path).lmcache.enabled:
        raise SpecError(f"LMCache is off in {path}", "set enabled = true in its [lmcache]")
    candidates = variants.grid(chunk_sizes, cpu_gbs)
    if write:
        toml_edit.require()
        _edited(path, _values(candidates[0]))  # fails now if the file cannot be edited, not after an hour
    compared = compare(candidates, common, path, workload, seed, load, forget, repeat, watching)
    best = _best(compared.outcomes)
    if best is None:
        return TuningResult(compared, None, {}, path, written=False)
    values = _values(best.variant)
    if write:
        _write(path, _edited(path, values))
    return TuningResult(compared, best.variant.name, values, path, write)


def _result(one: VariantResult) -> TuneVariantResult:
    lmcache = one.bench.lmcache if one.bench else None
    return TuneVariantResult(
        **vars(one),
        chunk_size=lmcache.chunk_size if lmcache else None,
        cpu_gib=lmcache.cpu_gib if lmcache else None,
    )


def _best(outcomes: Sequence[Outcome]) -> Outcome | None:
    measured = [(outcome, outcome.figures) for outcome in outcomes]
    candidates = [
        (outcome.variant.name, figures, outcome.runs[0].plan.lmcache_cpu_gib)
        for outcome, figures in measured
        if figures is not None and figures.ttft_first_s is not None
    ]
    if not candidates:
        return None
    name = comparison.best(candidates)
    return next(outcome for outcome in outcomes if outcome.variant.name == name)


def _values(variant: variants.Variant) -> dict[str, int | float]:
    """A variant's values in the form for the TOML file: 12, not 12.0."""
    return {
        name.removeprefix("lmcache."): int(value) if value == int(value) else value
        for name, value in variant.flags.items()
    }


def _edited(path: Path, values: Mapping[str, int | float]) -> str:
    """The TOML file's text with these values, verified by reading it back.

    Raises:
        SpecError: the values cannot be set, or another key of the file overrides them.
    """
    text = toml_edit.with_lmcache(path.read_text(encoding="utf-8"), dict(values))
    with tempfile.TemporaryDirectory(prefix="dynamoctl-tune-") as folder:
        copy = Path(folder) / path.name
        copy.touch(0o600)
        copy.write_text(text, encoding="utf-8")
        lmcache = load_spec({}, {}, copy).lmcache
    if any(getattr(lmcache, name) != value for name, value in values.items()):
        raise SpecError(f"{path} also sets these by other keys: {', '.join(values)}", "remove the other keys")
    return text


def _write(path: Path, text: str) -> None:
    """Write the file atomically and keep its permissions; a symbolic link stays one."""
    real = path.resolve()
    try:
        write_whole(real, text, stat.S_IMODE(real.stat().st_mode))
    except OSError as error:
        raise DynamoctlError(f"cannot write {path}: {error.strerror}", "set the keys by hand") from None
