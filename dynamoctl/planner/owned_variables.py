"""Variables that [env] cannot set, because the rest of the plan stands on them: GPUs, names, ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dynamoctl.errors import SpecError
from dynamoctl.planner.plan import Unit
from dynamoctl.planner.rules import BY_NAME


def check(units: Iterable[Unit], env: Mapping[str, str]) -> None:
    """The user's environment wins over the rules, but for those whose variable the plan stands on.

    Args:
        env: the environment that the user gives every unit.

    Raises:
        SpecError: it gives such a variable another value than the plan.
    """
    for unit in units:
        for reason in unit.why:
            rule = BY_NAME.get(reason.rule)
            if rule is not None and rule.instead and reason.sets in env and not unit.has(reason):
                raise SpecError(
                    f"env: {reason.sets} is decided by the plan ({rule.name})",
                    f"{rule.instead}. Otherwise: {rule.without}" if rule.value is None else rule.instead,
                )
