"""A `dynamoctl.toml` that suits this machine: look at it, decide, write it down."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamoctl import policies
from dynamoctl.config import template
from dynamoctl.config.choices import CONFIG_NAME
from dynamoctl.config.json_schema import SCHEMA_NAME
from dynamoctl.config.load import load
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.facts import Gpu, HostFacts, usable
from dynamoctl.host import models
from dynamoctl.humanize import count
from dynamoctl.lmcache import remote_stores
from dynamoctl.operations import planning
from dynamoctl.planner import topology

STDOUT = Path("-")

_HEAD = """\
Written by `dynamoctl init` for {machine}.

    {next}

What has no # was asked for or chosen for this machine. Take a # away to set what stands there: it is the
default, or what is said behind it. A flag of `up` wins over its key here.
Models that are here: {models}."""


@dataclass(frozen=True)
class Draft:
    """A file that has not been written yet.

    Attributes:
        planned: what `up` makes of it here.
        gpus: the GPUs that may be used, as `--gpus` counts them.
        models: those that are here without a download.
        machine: what was seen, in words.
        next: the command to run next.
        notes: what to know of the choices.
        private: whether it holds a password.
    """

    planned: planning.Planned
    gpus: tuple[Gpu | None, ...]
    models: tuple[str, ...]
    machine: str
    next: str
    notes: tuple[str, ...]
    text: str
    private: bool


def draft(flags: Mapping[str, Any], path: Path) -> Draft:
    """The file for this machine with what the user wants in it.

    The environment is not written down: it wins over a file anyway.

    Args:
        flags: as `up` has them, by the spec's names; None is "not given".
        path: where it is to be; `STDOUT` for a look at it.

    Raises:
        SpecError: it makes no deployment.
        PreflightError: not on this host.
    """
    seen = planning.look(flags.get("name") or "default")
    gpus = usable(seen.gpus, seen.visible_gpus)
    asked = {**flags, "mode": flags.get("mode") or _mode(flags, len(gpus), seen)}
    spec, _ = load(asked, {})
    notes = []
    if not spec.gpus and topology.device(spec, seen) == "cuda":
        asked["gpus"] = _first(len(gpus), spec)
        spec, _ = load(asked, {})
        notes += _on_gpus(len(gpus), spec)
    planned = planning.plan(spec, seen)
    if planned.model.folder is None and not planned.model.is_folder:
        notes.append(f"the first start fetches {planned.model.path} from the hub")
    command = f"dynamoctl up {spec.mode}"
    if path not in (STDOUT, Path(CONFIG_NAME)):
        command += f" --config {shlex.quote(str(path))}"
    here = tuple(models.here())
    machine = _machine(seen, gpus)
    head = _HEAD.format(machine=machine, next=command, models=", ".join(here) or "none")
    text = template.render(head, _values(asked, spec, planned), _taken_here(planned))
    if path != STDOUT and (path.parent / SCHEMA_NAME).is_file():
        text = f"#:schema ./{SCHEMA_NAME}\n{text}"
    private = bool(spec.lmcache.remote and remote_stores.parse(spec.lmcache.remote).password)
    return Draft(planned, gpus, here, machine, command, tuple(notes), text, private)


def write(text: str, path: Path, force: bool, private: bool = False) -> None:
    """Write a file that is not there yet, or over one with `force`.

    Args:
        private: for nobody else to read.

    Raises:
        SpecError: it is there, or cannot be written.
    """
    how = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with open(os.open(path, how, 0o600 if private else 0o666), "w", encoding="utf-8") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)
            file.write(text)
    except FileExistsError:
        raise SpecError(
            f"{path} is there already, and was left as it is",
            "write over it with --force, or name another with --output",
        ) from None
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror}", "name another file with --output") from None


def _mode(flags: Mapping[str, Any], gpus: int, seen: HostFacts) -> str:
    """Two GPUs are enough for prefill and decode apart, unless what is asked for says otherwise."""
    if any(flags.get(name) for name in ("decode", "prefill", "decode_args", "prefill_args")):
        return "disagg"
    if flags.get("workers"):
        return "agg"
    named = flags.get("gpus")
    wanted = DeploymentSpec(device=flags.get("device") or "auto", engine=flags.get("engine") or "vllm")
    if not named and topology.device(wanted, seen) == "cpu":
        return "agg"
    there = len(named.split(",")) if named else gpus
    return "disagg" if there >= 2 * (flags.get("tp") or 1) else "agg"


def _first(gpus: int, spec: DeploymentSpec) -> tuple[int, ...] | None:
    """The GPUs that `up` would take; one that is alone is shared by two. None where there are too few."""
    if spec.ranks <= gpus:
        return tuple(range(spec.ranks))
    return (0, 0) if gpus == 1 and spec.replicas == spec.ranks == 2 else None


def _on_gpus(gpus: int, spec: DeploymentSpec) -> list[str]:
    if not spec.gpus:
        return [f"it takes {count(spec.ranks, 'GPU')}, and {gpus} may be used here: name them as gpus"]
    if len(set(spec.gpus)) < spec.ranks:
        return ["there is one GPU: both workers share it"]
    if spec.ranks < gpus:
        more = "workers" if spec.mode == "agg" else "decode, prefill"
        return [f"{spec.ranks} of {gpus} GPUs are taken; for more raise {more} or tp, and name as many gpus"]
    return []


def _values(asked: Mapping[str, Any], spec: DeploymentSpec, planned: planning.Planned) -> dict[str, Any]:
    """What is set, as the TOML has it: paths are absolute, since `up` may run in another folder."""
    found: dict[str, Any] = {}
    for path, given in asked.items():
        if given is None:
            continue
        value: Any = spec
        for name in path.split("."):
            value = getattr(value, name)
        if isinstance(given, str) and isinstance(value, float) and given.strip()[-1:].isalpha():
            value = given.strip()  # a size with a unit
        found[path] = value
    if spec.gpus:
        found["gpus"] = [int(gpu) if gpu.isdigit() else gpu for gpu in spec.gpus]
    model = planned.model
    return {**found, "mode": spec.mode, "model": policies.BUILTIN_MODEL if model.builtin else model.path}


def _taken_here(planned: planning.Planned) -> dict[str, float]:
    """What the plan takes for a key whose default depends on the host."""
    settings = planned.plan.lmcache_settings
    return {f"lmcache.{one.name}": float(one.value) for one in settings if one.name == "cpu_gb"}


def _machine(seen: HostFacts, gpus: tuple[Gpu | None, ...]) -> str:
    kinds = (f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB" if gpu else "MIG" for gpu in gpus)
    what = f"{count(len(gpus), 'GPU')} ({'; '.join(dict.fromkeys(kinds))})" if gpus else "no GPU"
    return (
        f"{count(len(seen.cores), 'core')}, {seen.memory_total_gib:.0f} GiB of memory"
        f" ({seen.memory_available_gib:.0f} free) and {what}"
    )
