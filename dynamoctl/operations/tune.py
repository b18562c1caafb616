"""LMCache's chunk size and memory swept for a workload, and the best of them set in the user's TOML."""

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
from dynamoctl.operations.compare import Compared, Outcome, Watching, compare
from dynamoctl.operations.load_generators import Load
from dynamoctl.operations.planning import find_config
from dynamoctl.state import write_whole


@dataclass(frozen=True)
class Tuned:
    """What came of a sweep.

    Attributes:
        best: the variant with the shortest time to the first token; None where none went well.
        values: the keys of `[lmcache]` that it has.
        path: the TOML.
        written: whether they were set in it.
    """

    compared: Compared
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
) -> Tuned:
    """Measure each chunk size with each size of the cache, and write the best into the TOML.

    Args:
        cpu_gbs: sizes of the cache, GiB, as `cpu_gb` in the TOML; none: it stays as it is.
        write: whether to write it.

    Raises:
        SpecError: there is no TOML, it has no LMCache, or its keys cannot be set.
        PreflightError: tomlkit is not installed.
    """
    path = find_config(config)
    if path is None:
        raise SpecError(f"there is no {CONFIG_NAME} here to tune", "make one: dynamoctl init")
    if not load_spec({}, {}, path).lmcache.enabled:
        raise SpecError(f"LMCache is off in {path}", "set enabled = true in its [lmcache]")
    candidates = variants.grid(chunk_sizes, cpu_gbs)
    if write:
        toml_edit.require()
        _edited(path, _values(candidates[0]))  # whether it can be done, before an hour is spent
    compared = compare(candidates, common, path, workload, seed, load, forget, repeat, watching)
    best = _best(compared.outcomes)
    if best is None:
        return Tuned(compared, None, {}, path, written=False)
    values = _values(best.variant)
    if write:
        _write(path, _edited(path, values))
    return Tuned(compared, best.variant.name, values, path, write)


def _result(one: VariantResult) -> TuneVariantResult:
    lmcache = one.bench.lmcache if one.bench else None
    return TuneVariantResult(
        **vars(one),
        chunk_size=lmcache.chunk_size if lmcache else None,
        cpu_gib=lmcache.cpu_gib if lmcache else None,
    )


def _best(outcomes: Sequence[Outcome]) -> Outcome | None:
    good = [(one, one.figures) for one in outcomes]
    candidates = [
        (one.variant.name, figures, one.runs[0].plan.lmcache_cpu_gib)
        for one, figures in good
        if figures is not None and figures.ttft_first_s is not None
    ]
    if not candidates:
        return None
    name = comparison.best(candidates)
    return next(one for one in outcomes if one.variant.name == name)


def _values(variant: variants.Variant) -> dict[str, int | float]:
    """As they stand in the TOML: 12, not 12.0."""
    return {
        name.removeprefix("lmcache."): int(value) if value == int(value) else value
        for name, value in variant.flags.items()
    }


def _edited(path: Path, values: Mapping[str, int | float]) -> str:
    """The TOML with these values, read back to see that it has them.

    Raises:
        SpecError: it cannot have them.
    """
    text = toml_edit.with_lmcache(path.read_text(encoding="utf-8"), dict(values))
    with tempfile.TemporaryDirectory(prefix="dynamoctl-tune-") as folder:
        tried = Path(folder) / path.name
        tried.touch(0o600)
        tried.write_text(text, encoding="utf-8")
        lmcache = load_spec({}, {}, tried).lmcache
    if any(getattr(lmcache, name) != value for name, value in values.items()):
        raise SpecError(f"{path} sets these in another way too: {', '.join(values)}", "take that away")
    return text


def _write(path: Path, text: str) -> None:
    """Whole or not at all, with the permissions that it has; a link stays one."""
    real = path.resolve()
    try:
        write_whole(real, text, stat.S_IMODE(real.stat().st_mode))
    except OSError as error:
        raise DynamoctlError(f"cannot write {path}: {error.strerror}", "set the keys by hand") from None
