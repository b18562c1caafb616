"""Relative paths in the caller's environment: a unit gets them absolute, for it runs in another folder."""

from __future__ import annotations

from collections.abc import Iterable

from dynamoctl.facts import HostFacts
from dynamoctl.planner.plan import Reason


def reasons(facts: HostFacts, rules: Iterable[Reason]) -> tuple[Reason, ...]:
    """What a unit gets besides what the rules set or take away."""
    decided = {reason.sets for reason in rules}
    return tuple(
        Reason(
            "absolute-path",
            name,
            path,
            "Units run in folders of their own, where a relative path leads elsewhere.",
            "dynamoctl.config.paths",
            "The unit looks for a file that is not there.",
        )
        for name, path in facts.caller_paths.items()
        if name not in decided
    )
