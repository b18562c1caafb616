"""The plans of a deployment, one for each change: what was asked for, and what became of it.

    FOLDER/plans/N.json

A command proposes a plan as the next revision; the supervisor carries it out and notes the outcome. A file
holds spec and plan, and so may hold secrets: its mode is 0600, as that of `plan.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dynamoctl.errors import DynamoctlError, PreflightError, SpecError
from dynamoctl.state import DeploymentDir, write_whole

# Older ones are removed.
_KEPT = 20
UNDER_WAY, DONE, INTERRUPTED = "under way", "done", "interrupted"


@dataclass(frozen=True)
class Revision:
    """One plan of a deployment.

    Attributes:
        what: what was asked for, as `scale decode 2`.
        based_on: the revision from which it was planned; 0 for a start.
        at: when it was proposed, in seconds since the epoch.
        outcome: `under way`, `done`, `interrupted`, or why it failed.
        in_place: the units whose process ends before the next one of them starts.
        undo: whether units that were changed already are changed back if a later one fails.
    """

    number: int
    what: str
    based_on: int
    spec: dict[str, Any]
    plan: dict[str, Any]
    in_place: tuple[str, ...] = ()
    undo: bool = True
    at: float = 0.0
    outcome: str = UNDER_WAY


def propose(folder: DeploymentDir, revision: Revision) -> Revision:
    """Write a revision under the next number, and return it with that.

    Raises:
        PreflightError: it cannot be written.
    """
    numbers = _numbers(folder)
    number = max([*numbers, revision.based_on], default=0) + 1
    new = replace(revision, number=number, at=time.time())
    _write(folder, new)
    for old in numbers[: -(_KEPT - 1)]:
        _file(folder, old).unlink(missing_ok=True)
    return new


def read(folder: DeploymentDir, number: int) -> Revision:
    """A revision by its number.

    Raises:
        SpecError: there is no such revision.
        DynamoctlError: its file is damaged.
    """
    try:
        body = json.loads(_file(folder, number).read_text(encoding="utf-8"))
        return Revision(**{**body, "in_place": tuple(body["in_place"])})
    except FileNotFoundError:
        numbers = ", ".join(map(str, _numbers(folder))) or "none"
        raise SpecError(
            f"'{folder.name}' has no revision {number}", f"its revisions (dynamoctl history): {numbers}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DynamoctlError(f"{_file(folder, number)} is damaged ({error})") from None


def every(folder: DeploymentDir) -> list[Revision]:
    """All revisions that are kept, the oldest first; a damaged one is left out."""
    found = []
    for number in _numbers(folder):
        with suppress(DynamoctlError):
            found.append(read(folder, number))
    return found


def settle(folder: DeploymentDir, number: int, outcome: str) -> None:
    """Note what became of a revision. On a full disk, it stays as it is."""
    with suppress(DynamoctlError):
        _write(folder, replace(read(folder, number), outcome=outcome))


def _write(folder: DeploymentDir, revision: Revision) -> None:
    path = _file(folder, revision.number)
    try:
        folder.make()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(path, json.dumps(asdict(revision), indent=1), 0o600)
    except OSError as error:
        raise PreflightError(f"cannot write {path}: {error.strerror}", "free some space") from None


def _file(folder: DeploymentDir, number: int) -> Path:
    return folder.path / "plans" / f"{number}.json"


def _numbers(folder: DeploymentDir) -> Sequence[int]:
    files = (folder.path / "plans").glob("*.json")
    return sorted(int(file.stem) for file in files if file.stem.isdecimal())
