"""What other programs are handed: plans, and what runs (from deployments' folders; nobody is asked)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.state import Folder, deployments, targets_folder, write_whole


def prometheus_targets(names: list[str]) -> list[dict[str, Any]]:
    """The targets of those of these deployments that are up, as `file_sd` takes them.

    Raises:
        DynamoctlError: a plan is damaged, or another user's.
    """
    return [group for name in names for group in _targets(Folder(name))]


def prometheus_config(name: str | None) -> str:
    """A `prometheus.yml` that follows one deployment, or all.

    What it names is written by each deployment's supervisor, so that it is right whatever ports come next.
    """
    from dynamoctl.export import prometheus

    return prometheus.config(str(Folder(name).targets_file if name else targets_folder() / "*.json"))


if TYPE_CHECKING:
    from dynamoctl.export.cluster import Cluster
    from dynamoctl.export.systemd import Manager
    from dynamoctl.operations.planning import Planned


@dataclass(frozen=True)
class Exported:
    """A plan for another runner.

    Attributes:
        content: the text, or file -> text.
        notes: what whoever takes it should know.
    """

    content: str | dict[str, str]
    notes: tuple[str, ...] = ()


def k8s(flags: Mapping[str, Any], config: Path | None, where: Cluster) -> Exported:
    """A Kubernetes manifest for Dynamo's operator.

    Raises:
        SpecError: it makes no deployment, none in a cluster, or a secret would stand in it.
    """
    from dynamoctl.export import kubernetes, manifest_text
    from dynamoctl.operations.planning import plan_for_cluster

    planned = plan_for_cluster(flags, config, where)
    documents = kubernetes.manifest(planned.plan, where, planned.spec.env)
    notes = [f"left out: {one}" for one in kubernetes.left_out(planned.plan)]
    if where.image is None and kubernetes.needs_plugin(planned.plan):
        notes.append(
            "the image is a placeholder: LMCache in process needs one with dynamoctl's vLLM plugin;"
            " name it with --image, or take --lmcache-mode mp or --no-lmcache"
        )
    return Exported(manifest_text.render(documents, planned.plan, where), tuple(notes))


def shell(flags: Mapping[str, Any], config: Path | None) -> Exported:
    """A bash script for this machine.

    Raises:
        SpecError: it makes no deployment, or a command line has a secret in it.
        PreflightError: not on this host.
    """
    from dynamoctl.export import shell as script

    planned = _plan_of_one_host(flags, config)
    return Exported(script.script(planned.plan), _notes(planned))


def systemd(flags: Mapping[str, Any], config: Path | None, manager: Manager) -> Exported:
    """Units for systemd on this machine: file -> text.

    Raises:
        SpecError: it makes no deployment, or a command line has a secret in it.
        PreflightError: not on this host.
    """
    from dynamoctl.export import systemd as files

    planned = _plan_of_one_host(flags, config)
    # A service has none of the caller's environment, which `up` hands on.
    here = [name for name in sorted(os.environ) if name.startswith("HF_") and name not in planned.spec.env]
    forgotten = [
        f"{name} is set here, and not in a service: the target says which file is for it" for name in here
    ]
    return Exported(files.units(planned.plan, manager), (*_notes(planned), *forgotten))


def _plan_of_one_host(flags: Mapping[str, Any], config: Path | None) -> Planned:
    from dynamoctl.operations.planning import plan_for_here

    planned = plan_for_here(flags, config)
    if planned.spec.discovery != "file":
        raise SpecError(
            "discovery: what is exported for a machine finds its processes in a folder there, not in an etcd",
            "leave --discovery, --roles and --advertise out; or run `dynamoctl up` on each host",
        )
    return planned


def _notes(planned: Planned) -> tuple[str, ...]:
    """What must be there before the plan can run without `up`."""
    if planned.model.builtin and planned.model.folder is None:
        return (f"the model is not in {planned.model.path} yet: `dynamoctl up` puts it there",)
    return ()


def require_known(name: str) -> None:
    """Raise SpecError where no deployment of this name was ever started."""
    if Folder(name).read_state() is None:
        known = deployments()
        hint = f"known are: {', '.join(known)}" if known else "bring it up first: dynamoctl up --help"
        raise SpecError(f"there is no '{name}': it was never started here", hint)


def write_all(folder: Path, files: Mapping[str, str]) -> None:
    """Write these files into a folder, which is made if it is not there.

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
    """Write what was exported: text as it is, a script so that it can be run, all else as JSON.

    Raises:
        PreflightError: it cannot be written.
    """
    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a pipe, say
        else:
            # Prometheus may be reading it.
            write_whole(path.resolve(), text, 0o777 if text.startswith("#!") else 0o666)
    except OSError as error:
        raise PreflightError(
            f"cannot write {path}: {error.strerror}", "name a file in a folder that is there with -o"
        ) from None


def _targets(folder: Folder) -> list[dict[str, Any]]:
    """Of a deployment that was ready and lives, as the supervisor says it to Prometheus."""
    from dynamoctl.export import prometheus
    from dynamoctl.host.processes import is_running
    from dynamoctl.operations.serving import read_plan

    state = folder.read_state()
    if state is None or not state.ready_at or state.state in ("stopping", "stopped"):
        return []
    if not any(unit.identity is not None and is_running(unit.identity) for unit in state.units):
        return []
    return prometheus.targets(read_plan(folder))
