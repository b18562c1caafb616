"""Write a `dynamoctl.toml` for this machine."""

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
from dynamoctl.facts import Gpu, HostFacts, usable_gpus
from dynamoctl.host import models
from dynamoctl.humanize import count, is_utf8
from dynamoctl.lmcache import remote_stores
from dynamoctl.operations import planning
from dynamoctl.planner import topology

STDOUT = Path("-")

_HEAD = """\
Written by `dynamoctl init` for {machine}.

    {next}

Lines without # were requested or chosen for this machine. Remove a # to set a key; its value is the default,
or as the comment behind it says. A flag of `up` overrides its key here.
Models on this host: {models}."""


@dataclass(frozen=True)
class Draft:
    """A config file that has not been written yet.

    Attributes:
        planned: the plan that `up` makes from it on this host.
        gpus: the visible GPUs, in the order of `--gpus`.
        models: the models that need no download.
        machine: a description of the machine.
        next: the command to run next.
        notes: remarks about the choices.
        text: the file's text.
        private: whether the file holds a password.
    """

    planned: planning.PlanningResult
    gpus: tuple[Gpu | None, ...]
    models: tuple[str, ...]
    machine: str
    next: str
    notes: tuple[str, ...]
    text: str
    private: bool


def draft(flags: Mapping[str, Any], path: Path) -> Draft:
    """The config file for this machine with the user's settings.

    Settings from the environment are not written, because they override the file anyway.

    Args:
        flags: flags of `up`, by the spec's names; None means "not given".
        path: the file to write later; `STDOUT` to only print it.

    Raises:
        SpecError: the settings are invalid.
        PreflightError: this host cannot run the plan.
    """
    host_facts = planning.look(flags.get("name") or "default")
    gpus = usable_gpus(host_facts.gpus, host_facts.visible_gpus)
    asked = {**flags, "mode": flags.get("mode") or _mode(flags, len(gpus), host_facts)}
    spec, _ = load(asked, {})
    notes = []
    if not spec.gpus and topology.device(spec, host_facts) == "cuda":
        asked["gpus"] = _first(len(gpus), spec)
        spec, _ = load(asked, {})
        notes += _on_gpus(len(gpus), spec)
    planned = planning.plan(spec, host_facts)
    if planned.model.folder is None and not planned.model.is_folder:
        notes.append(f"the first start downloads {planned.model.path} from the hub")
    command = f"dynamoctl up {spec.mode}"
    if path not in (STDOUT, Path(CONFIG_NAME)):
        command += f" --config {shlex.quote(str(path))}"
    local_models = tuple(models.here())
    machine = _machine(host_facts, gpus)
    head = _HEAD.format(machine=machine, next=command, models=", ".join(local_models) or "none")
    text = template.render(head, _values(asked, spec, planned), _taken_here(planned))
    if not is_utf8(text):
        raise SpecError("a value is not UTF-8 text, and a TOML file is", "leave it out, and give it to `up`")
    if path != STDOUT and (path.parent / SCHEMA_NAME).is_file():
        text = f"#:schema ./{SCHEMA_NAME}\n{text}"
    private = bool(spec.lmcache.remote and remote_stores.parse(spec.lmcache.remote).password)
    return Draft(planned, gpus, local_models, machine, command, tuple(notes), text, private)


def write(text: str, path: Path, force: bool, private: bool = False) -> None:
    """Write a new file, or overwrite one with `force`.

    Args:
        private: whether only this user may read it.

    Raises:
        SpecError: the file exists, or cannot be written.
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
            "overwrite it with --force, or name another file with --output",
        ) from None
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror}", "name another file with --output") from None


def _mode(flags: Mapping[str, Any], gpus: int, host_facts: HostFacts) -> str:
    """`disagg` if the user's flags need it or there are enough GPUs for it, otherwise `agg`."""
    if any(flags.get(name) for name in ("decode", "prefill", "decode_args", "prefill_args")):
        return "disagg"
    if flags.get("workers"):
        return "agg"
    named = flags.get("gpus")
    wanted = DeploymentSpec(device=flags.get("device") or "auto", engine=flags.get("engine") or "vllm")
    if not named and topology.device(wanted, host_facts) == "cpu":
        return "agg"
    gpu_count = len(named.split(",")) if named else gpus
    return "disagg" if gpu_count >= 2 * (flags.get("tp") or 1) else "agg"


def _first(gpus: int, spec: DeploymentSpec) -> tuple[int, ...] | None:
    """The GPUs that `up` would use; two workers share a single GPU. None if there are too few."""
    if spec.ranks <= gpus:
        return tuple(range(spec.ranks))
    return (0, 0) if gpus == 1 and spec.replicas == spec.ranks == 2 else None


def _on_gpus(gpus: int, spec: DeploymentSpec) -> list[str]:
    if not spec.gpus:
        return [f"it needs {count(spec.ranks, 'GPU')}, but {gpus} can be used here: list the GPUs in gpus"]
    if len(set(spec.gpus)) < spec.ranks:
        return ["there is one GPU: both workers share it"]
    if spec.ranks < gpus:
        sizes = "workers" if spec.mode == "agg" else "decode, prefill"
        return [f"{spec.ranks} of {gpus} GPUs are used; to use more, raise {sizes} or tp, and list more gpus"]
    return []


def _values(
    asked: Mapping[str, Any], spec: DeploymentSpec, planned: planning.PlanningResult
) -> dict[str, Any]:
    """The keys to set, as in the TOML. Paths are absolute, because `up` may run in another folder."""
    values: dict[str, Any] = {}
    for path, given in asked.items():
        if given is None:
            continue
        value: Any = spec
        for name in path.split("."):
            value = getattr(value, name)
        if isinstance(given, str) and isinstance(value, float) and given.strip()[-1:].isalpha():
            value = given.strip()  # a size with a unit
        values[path] = value
    if spec.gpus:
        values["gpus"] = [int(gpu) if gpu.isdigit() else gpu for gpu in spec.gpus]
    model = planned.model
    return {**values, "mode": spec.mode, "model": policies.BUILTIN_MODEL if model.builtin else model.path}


def _taken_here(planned: planning.PlanningResult) -> dict[str, float]:
    """The plan's values of keys whose defaults depend on the host."""
    settings = [setting for setting in planned.plan.lmcache_settings if setting.name == "cpu_gb"]
    return {f"lmcache.{setting.name}": float(setting.value) for setting in settings}


def _machine(host_facts: HostFacts, gpus: tuple[Gpu | None, ...]) -> str:
    kinds = (f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB" if gpu else "MIG" for gpu in gpus)
    gpu_text = f"{count(len(gpus), 'GPU')} ({'; '.join(dict.fromkeys(kinds))})" if gpus else "no GPU"
    return (
        f"{count(len(host_facts.cores), 'core')}, {host_facts.memory_total_gib:.0f} GiB of memory"
        f" ({host_facts.memory_available_gib:.0f} free) and {gpu_text}"
    )
