"""What the runners of one machine (a shell script, systemd) have in common: a plan's environment and order.

No secret is written into what they get: its variable is named, and has to be set where it is run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from dynamoctl import policies
from dynamoctl.errors import SpecError
from dynamoctl.planner.plan import DeploymentPlan, Unit
from dynamoctl.planner.secrets import redact

# Each in a folder that the runner makes anew.
_FOLDERS = ("DYN_FILE_KV",)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable's value must not be written down."""
    return str(redact(value, name)) != value


def secrets(plan: DeploymentPlan) -> tuple[str, ...]:
    """The names of the variables that have to be set where the plan is run.

    Raises:
        SpecError: a command line has a secret in it.
    """
    for unit in plan.units:
        if redact(unit.argv) != list(unit.argv):
            raise SpecError(
                f"{unit.name}: its command line contains a password, which does not belong in an export",
                "set it in the environment",
            )
    return tuple(
        sorted({name for unit in plan.units for name, value in unit.env.items() if is_secret(name, value)})
    )


def shared(plan: DeploymentPlan) -> dict[str, str]:
    """The environment that all units get alike, without secrets and without folders."""
    first, *others = (_written(unit) for unit in plan.units)
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}


def own(plan: DeploymentPlan, unit: Unit) -> dict[str, str]:
    """What a unit gets beside that."""
    common = shared(plan)
    return {name: value for name, value in _written(unit).items() if common.get(name) != value}


def _written(unit: Unit) -> Mapping[str, str]:
    return {
        name: value for name, value in unit.env.items() if name not in _FOLDERS and not is_secret(name, value)
    }


def ports(plan: DeploymentPlan) -> dict[str, tuple[int, ...]]:
    """Every port that somebody else may not have taken, by the address at which it must be free.

    That is the loopback, but for a unit whose gate is asked at another address. IPv6 has no brackets.
    """
    found: dict[str, set[int]] = {}
    for unit in plan.units:
        for port in unit.ports.values():
            host = unit.gate.host if port == unit.gate.port else policies.LOOPBACK
            found.setdefault(host.strip("[]"), set()).add(port)
    return {host: tuple(sorted(numbers)) for host, numbers in sorted(found.items())}


def patience_s(plan: DeploymentPlan) -> int:
    """What each unit gets to end, whole seconds."""
    return math.ceil(policies.stop_grace_s(plan.drain_s))
