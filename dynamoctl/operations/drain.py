"""Keep requests away from a worker, for maintenance by hand."""

from __future__ import annotations

from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest
from dynamoctl.operations.line import Line, Told
from dynamoctl.operations.serving import serving
from dynamoctl.planner.plan import WORKER_ROLES
from dynamoctl.state import DeploymentDir


def drain(name: str, unit: str, force: bool, told: Told) -> float:
    """Keep new requests away from a worker until `undrain`; those that it has get the time of `--drain`.

    Args:
        force: whether no worker of its role may be left.

    Returns:
        How long its requests took, in seconds.

    Raises:
        SpecError: there is no such worker, or no other one of its role takes requests.
        DynamoctlError: it cannot be drained now; the supervisor says why.
    """
    _require_worker(name, unit)
    there = serving(name).units
    role = next(one.role for one in there if one.name == unit)
    others = [one for one in there if one.role == role and one.name != unit]
    if not force and not any(one.state == "ready" and not one.service for one in others):
        raise SpecError(
            f"no other {role} worker takes requests: they fail while {unit} is drained",
            "to do it all the same: --force",
        )
    with Line(DeploymentDir(name), {"drain": unit}) as line:
        return float(line.answer(told)["seconds"])


def undrain(name: str, unit: str) -> None:
    """Send requests to a drained worker again.

    Raises:
        SpecError: there is no such worker.
        DynamoctlError: another change is under way.
    """
    _require_worker(name, unit)
    with Line(DeploymentDir(name), {"undrain": unit}) as line:
        line.answer(lambda _: None)


def _require_worker(name: str, unit: str) -> None:
    known = [one.name for one in serving(name).units if one.role in WORKER_ROLES]
    if unit not in known:
        raise SpecError(
            f"'{name}' has no worker '{unit}'", nearest(unit, known) or f"it has {', '.join(known)}"
        )
