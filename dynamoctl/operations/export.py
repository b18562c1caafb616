"""What of deployments other programs are handed. It reads their folders, and asks nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynamoctl.errors import DynamoctlError, PreflightError, SpecError
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


def require_known(name: str) -> None:
    """Raise SpecError where no deployment of this name was ever started."""
    if Folder(name).read_state() is None:
        known = deployments()
        hint = f"known are: {', '.join(known)}" if known else "bring it up first: dynamoctl up --help"
        raise SpecError(f"there is no '{name}': it was never started here", hint)


def write(path: Path, content: object) -> None:
    """Write what was exported: text as it is, all else as JSON.

    Raises:
        PreflightError: it cannot be written.
    """
    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a pipe, say
        else:
            write_whole(path.resolve(), text)  # Prometheus may be reading it
    except OSError as error:
        raise PreflightError(
            f"cannot write {path}: {error.strerror}", "name a file in a folder that is there with -o"
        ) from None


def _targets(folder: Folder) -> list[dict[str, Any]]:
    """Of a deployment that was ready and lives, as the supervisor says it to Prometheus."""
    from dynamoctl.export import prometheus
    from dynamoctl.host.processes import is_running
    from dynamoctl.planner.plan import DeploymentPlan

    state = folder.read_state()
    if state is None or not state.ready_at or state.state in ("stopping", "stopped"):
        return []
    if not any(unit.identity is not None and is_running(unit.identity) for unit in state.units):
        return []
    try:
        plan = DeploymentPlan.from_json((folder.read_plan() or {})["plan"])
    except (KeyError, TypeError) as error:
        raise DynamoctlError(
            f"{folder.plan_file} is damaged ({error})", f"`dynamoctl down -n {folder.name}` cleans up"
        ) from None
    return prometheus.targets(plan)
