"""What only a trial shows. Each is a program of its own, like an engine's process, and takes seconds."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dynamoctl.checks.base import Check, Finding, Level, worker_environ
from dynamoctl.checks.packages import missing_packages
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.lmcache import tables
from dynamoctl.lmcache.tables import PREFIX
from dynamoctl.planner.plan import DeploymentPlan, Unit
from dynamoctl.planner.secrets import redact
from dynamoctl.processes import engine_trial, process_control

_START_AGENT = """
from nixl._api import nixl_agent, nixl_agent_config
nixl_agent("dynamoctl-doctor", nixl_agent_config(backends=["UCX"]))
"""
_LOAD_KERNELS = """
import torch
from importlib import import_module
from importlib.metadata import version
new = tuple(map(int, version("lmcache").split(".")[:3])) >= (0, 5, 4)
import_module("lmcache.cuda_ops" if new else "lmcache.c_ops")
"""


def _kernels(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    error = _error_of(_LOAD_KERNELS, worker_environ(plan)) if _uses_kernels(plan) else ""
    if not error:
        return []
    return [
        Finding(
            Level.WARNING,
            f"LMCache's compiled kernels do not load: {error}",
            "install dynamoctl's own set of versions: run ./bootstrap in its folder",
            "LMCache would run without them, and copy slowly",
        )
    ]


def _kernels_ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "they load" if _uses_kernels(plan) else ""


def _nixl(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    error = _error_of(_START_AGENT, worker_environ(plan)) if _uses_nixl(plan) else ""
    if not error:
        return []
    return [
        Finding(
            Level.ERROR,
            f"NIXL's agent does not start: {error}",
            "install nixl and nixl-cu13 in the same version: run ./bootstrap in dynamoctl's folder",
            "the workers transfer the KV cache with it",
        )
    ]


def _nixl_ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "an agent starts" if _uses_nixl(plan) else ""


def _uses_kernels(plan: DeploymentPlan) -> bool:
    return plan.engine == "vllm" and plan.lmcache == "inproc" and not missing_packages(plan)


def _uses_nixl(plan: DeploymentPlan) -> bool:
    return plan.moves_kv_cache and not missing_packages(plan)


def _arguments(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> list[Finding]:
    """What dynamo.vllm's parser and vLLM's configuration say of each worker; one of a role is asked."""
    if not _asks_engine(plan, model):
        return []
    workers = {unit.role: unit for unit in reversed(plan.workers)}
    asked = [[unit.name, unit.argv[3:], model.folder is not None] for unit in workers.values()]
    environ = {**worker_environ(plan)}
    if model.folder is not None:
        environ["HF_HUB_OFFLINE"] = "1"
    complaints = _complaints(["arguments", json.dumps(asked)], environ)
    return [
        Finding(
            Level.ERROR,
            f"{name} would exit: {why}" if name else f"the engine's arguments cannot be parsed: {why}",
            "fix the arguments after --, engine_args in the TOML, or the model",
            "that is what the engine's own parser says",
        )
        for name, why in complaints
    ]


def _arguments_ok(plan: DeploymentPlan, _facts: HostFacts, model: ModelFacts) -> str:
    return "the engine takes them" if _asks_engine(plan, model) else ""


def _asks_engine(plan: DeploymentPlan, model: ModelFacts) -> bool:
    """Whether the user has a part in what the engine gets: it takes ten seconds or more to ask it."""
    if plan.engine != "vllm" or not plan.workers or missing_packages(plan):
        return False
    if model.is_folder and model.folder is None and not model.builtin:
        return False  # there is no such folder: the check of the model says so
    ours = {"--model", "--served-model-name", *(reason.sets for unit in plan.units for reason in unit.why)}
    options = {word.partition("=")[0] for unit in plan.workers for word in unit.argv if word.startswith("-")}
    return not model.builtin or not options <= {*ours, "-m"}


def _settings(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    """What LMCache's configuration class says of settings that only together make no sense."""
    caching = next((unit for unit in plan.workers if _users_settings(unit)), None)
    if plan.lmcache != "inproc" or caching is None or missing_packages(plan):
        return []
    return [
        Finding(
            Level.ERROR,
            f"LMCache rejects them: {why}",
            "fix them where `up --dry-run` says that they are from",
            "the engine would exit when it makes its cache",
        )
        for _, why in _complaints(["lmcache"], caching.environ(os.environ))
    ]


def _settings_ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    asked = (
        plan.lmcache == "inproc" and any(map(_users_settings, plan.workers)) and not missing_packages(plan)
    )
    return "LMCache takes them" if asked else ""


def _users_settings(unit: Unit) -> bool:
    """Whether a unit has settings of LMCache that no rule gives it."""
    return any(
        reason.rule == "user-environment" and reason.sets.removeprefix(PREFIX).lower() in tables.KEYS
        for reason in unit.why
    )


def _complaints(words: list[str], environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """(worker or empty, complaint) of the engine's own classes, asked in a process of their own."""
    found: list[tuple[str, str]] = []

    def read(line: str) -> None:
        if line.startswith(engine_trial.MARK):
            name, why = json.loads(line.removeprefix(engine_trial.MARK))
            found.append((str(name), str(redact(why))))

    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", engine_trial.__name__, *words]
        code, lines = process_control.run_script(argv, environ, Path(folder), read)
    if code and not found:
        found.append(("", lines[-1].strip() if lines else process_control.how_it_ended(code)))
    return found


def _error_of(script: str, environ: Mapping[str, str]) -> str:
    """The last line that a failing script prints, or how it ended; empty if it succeeds."""
    with tempfile.TemporaryDirectory() as folder:
        code, lines = process_control.run_script(
            [sys.executable, "-c", script], environ, Path(folder), lambda _line: None
        )
    if code == 0:
        return ""
    return lines[-1].strip() if lines else process_control.how_it_ended(code)


KERNELS = Check("LMCache's kernels", _kernels, _kernels_ok)
NIXL = Check("NIXL", _nixl, _nixl_ok)
ARGUMENTS = Check("engine arguments", _arguments, _arguments_ok)
SETTINGS = Check("LMCache's settings", _settings, _settings_ok)
