"""A pod's environment: what of a unit's holds in a cluster, and what does not, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamoctl.errors import SpecError
from dynamoctl.planner.plan import Unit
from dynamoctl.planner.rules import RULES
from dynamoctl.planner.secrets import redact

# Of what the planner gives a unit: what no pod gets as it is. The reasons stand with the rules.
DROPPED = frozenset(rule.sets for rule in RULES if rule.in_pod.action != "kept")


def shared(units: Sequence[Unit], own: Mapping[str, str]) -> dict[str, str]:
    """What all pods get alike.

    Args:
        units: one of each component.
        own: the environment that the user gives every unit; kept whatever it is.
    """
    first, *others = [kept(unit, own) for unit in units]
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}


def alone(unit: Unit, common: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """What a unit's pod gets besides the environment that all have in common."""
    return {name: value for name, value in kept(unit, own).items() if common.get(name) != value}


def variables(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """An environment as a pod has it.

    Raises:
        SpecError: a value is a secret.
    """
    hidden = next((name for name, value in env.items() if redact(value, name) != value), None)
    if hidden:
        raise SpecError(
            f"env: {hidden} is a secret, which does not belong in a manifest",
            "put it into a Secret of the cluster under this key, and name that: --secret NAME",
        )
    return [{"name": name, "value": value} for name, value in env.items()]


def kept(unit: Unit, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """What of a unit's environment holds in a pod.

    Args:
        own: the environment that the user gives every unit; kept whatever it is.
    """
    own = own or {}
    return {name: value for name, value in unit.env.items() if name in own or name not in DROPPED}
