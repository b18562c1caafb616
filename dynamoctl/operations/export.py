"""Exports for other programs: plans, and Prometheus targets from the deployments' folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.state import DeploymentDir, deployments, targets_folder, write_whole


def prometheus_targets(names: list[str]) -> list[dict[str, Any]]:
    """The Prometheus targets of these deployments, as far as they are up, in `file_sd` format.

    Raises:
        DynamoctlError: a plan is damaged, or belongs to another user.
    """
    return [group for name in names for group in _targets(DeploymentDir(name))]


def prometheus_config(name: str | None) -> str:
    """A `prometheus.yml` that scrapes one deployment, or all of them.

    It refers to files that the supervisors write, so that it stays valid when ports change.
    """
    from dynamoctl.export import prometheus

    return prometheus.config(str(DeploymentDir(name).targets_file if name else targets_folder() / "*.json"))


if TYPE_CHECKING:
    from dynamoctl.export.cluster import Cluster
    from dynamoctl.export.systemd import Manager
    from dynamoctl.operations.planning import PlanningResult


@dataclass(frozen=True)
class ExportResult:
    """A plan for another runner.

    Attributes:
        content: the text, or file name -> text.
        notes: what the user should know about it.
    """

    content: str | dict[str, str]
    notes: tuple[str, ...] = ()


def k8s(flags: Mapping[str, Any], config: Path | None, where: Cluster) -> ExportResult:
    """A Kubernetes manifest for Dynamo's operator.

    Raises:
        SpecError: the spec is invalid, cannot run in a cluster, or would put a secret into the manifest.
    """
    from dynamoctl.export import kubernetes, manifest_text
    from dynamoctl.operations.planning import plan_for_cluster

    planned = plan_for_cluster(flags, config, where)
    documents = kubernetes.manifest(planned.plan, where, planned.spec.env)
    notes = [f"left out: {feature}" for feature in kubernetes.left_out(planned.plan)]
    if where.image is None and kubernetes.needs_plugin(planned.plan):
        notes.append(
            "the image is a placeholder: in-process LMCache needs an image with dynamoctl's vLLM plugin;"
            " set it with --image, or use --lmcache-mode mp or --no-lmcache"
        )
    return ExportResult(manifest_text.render(documents, planned.plan, where), tuple(notes))


def shell(flags: Mapping[str, Any], config: Path | None) -> ExportResult:
    """A bash script for this machine.

    Raises:
        SpecError: the spec is invalid, or a command line contains a secret.
        PreflightError: this host cannot run the plan.
    """
    from dynamoctl.export import shell as script

    planned = _plan_of_one_host(flags, config)
    return ExportResult(script.script(planned.plan), _notes(planned))


def systemd(flags: Mapping[str, Any], config: Path | None, manager: Manager) -> ExportResult:
    """systemd units for this machine: file name -> text.

    Raises:
        SpecError: the spec is invalid, or a command line contains a secret.
        PreflightError: this host cannot run the plan.
    """
    from dynamoctl.export import systemd as files

    planned = _plan_of_one_host(flags, config)
    # `up` passes on the caller's environment; a service does not get it.
    written = planned.plan.units[0].env
    names = [name for name in sorted(os.environ) if name.startswith("HF_") and name not in written]
    missing = [
        f"{name} is set here but not in the services: the target says which file is for it" for name in names
    ]
    return ExportResult(files.units(planned.plan, manager), (*_notes(planned), *missing))


def _plan_of_one_host(flags: Mapping[str, Any], config: Path | None) -> PlanningResult:
    from dynamoctl.operations.planning import plan_for_here

    planned = plan_for_here(flags, config)
    if planned.spec.discovery != "file":
        raise SpecError(
            "discovery: exports for one machine use file discovery in a local folder, not etcd",
            "leave out --discovery, --roles and --advertise; or run `dynamoctl up` on each host",
        )
    return planned


def _notes(planned: PlanningResult) -> tuple[str, ...]:
    """What the plan needs before it can run without `up`."""
    if planned.model.builtin and planned.model.folder is None:
        return (f"the model is not in {planned.model.path} yet: `dynamoctl up` puts it there",)
    return ()


def require_known(name: str) -> None:
    """Raise SpecError if no deployment of this name was ever started."""
    if DeploymentDir(name).read_state() is None:
        known = deployments()
        hint = f"known are: {', '.join(known)}" if known else "bring it up first: dynamoctl up --help"
        raise SpecError(f"there is no '{name}': it was never started here", hint)


def write_all(folder: Path, files: Mapping[str, str]) -> None:
    """Write these files into a folder, which is made if it does not exist.

    Raises:
        PreflightError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_whole(folder.resolve() / name, text)
    except OSError as error:
        raise PreflightError(
            f"cannot write to {folder}: {error.strerror}", "name another folder with -o"
        ) from None


def write(path: Path, content: object) -> None:
    """Write an export: text as it is, a script with execute permission, anything else as JSON.

    Raises:
        PreflightError: it cannot be written.
    """
    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a pipe, for example
        else:
            # Atomically, because Prometheus may be reading the file.
            write_whole(path.resolve(), text, 0o777 if text.startswith("#!") else 0o666)
    except OSError as error:
        raise PreflightError(
            f"cannot write {path}: {error.strerror}", "name a file in an existing folder with -o"
        ) from None


def _targets(folder: DeploymentDir) -> list[dict[str, Any]]:
    """The targets of a deployment that was ready and lives, as the supervisor writes them."""
    from dynamoctl.export import prometheus
    from dynamoctl.host.processes import is_running
    from dynamoctl.operations.serving import read_plan

    state = folder.read_state()
    if state is None or not state.ready_at or state.state in ("stopping", "stopped"):
        return []
    if not any(unit.identity is not None and is_running(unit.identity) for unit in state.units):
        return []
    return prometheus.targets(read_plan(folder))
