"""What a rule is, and how rules become environment and arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.plan import WORKER_ROLES, Reason, Role
from dynamoctl.tested_versions import INSTALLED

ALL: tuple[Role, ...] = get_args(Role)
WORKERS = WORKER_ROLES


@dataclass(frozen=True)
class Condition:
    """When a rule applies, in words for the documentation and as a test of a unit."""

    words: str
    holds: Callable[[UnitContext], bool]


ALWAYS = Condition("", lambda _unit: True)


@dataclass(frozen=True)
class InPod:
    """What `export k8s` does with what a rule sets.

    Attributes:
        action: `kept`: every pod of the role gets it; `dropped`: no pod gets it; `changed`: pods get another
            value, or get it in another way.
        why: the reason; empty if it is kept.
        reserved: whether the operator or the pod decides it, so that [env] may not set it for an export.
    """

    action: Literal["kept", "dropped", "changed"] = "kept"
    why: str = ""
    reserved: bool = False


KEPT = InPod()
OPERATORS = InPod("dropped", "the operator sets its own", reserved=True)
LOOPBACK_ONLY = InPod("dropped", "it keeps traffic on the loopback; pods could not reach each other")
OWN_NETWORK = InPod("dropped", "a pod has its own network", reserved=True)
FOR_SUPERVISOR = InPod("dropped", "it is for dynamoctl's supervisor")
GPUS_ONLY = InPod("dropped", "a manifest is for GPUs")
STAYS_UP = InPod("dropped", "other pods stay when one leaves")


@dataclass(frozen=True)
class Rule:
    """One rule about the engine.

    Attributes:
        name: its name, in kebab case.
        sets: the variable, the flag, or a key of the KV transfer config (`kv_transfer_config.KEY`).
        value: its value, or a function of the unit. Empty: a flag without a value, or an empty variable.
            None: the variable is taken out of the caller's environment.
        why: the reason, in one or two sentences.
        without: what happens without it.
        source: where that was found: `package==version:path:symbol`, an issue, or a measurement.
        tested: the packages that it was tested with, in the versions of `tested_versions.INSTALLED`.
        roles: the roles of the units that it is for.
        when: what must be true of such a unit as well.
        in_pod: what `export k8s` does with it.
        override_expected: whether users have good reasons to set another value; `doctor` warns of others.
        instead: how a user says what is wanted, if the plan stands on the variable, so that [env] cannot set
            it to another value; empty if it can.
        replaces_quietly: whether nobody needs to be told that another value in the caller's environment is
            not used: the plan has read it, or it makes no difference to what is served.
    """

    name: str
    sets: str
    value: str | Callable[[UnitContext], str] | None
    why: str
    without: str
    source: str
    tested: tuple[str, ...]
    roles: tuple[Role, ...] = ALL
    when: Condition = ALWAYS
    in_pod: InPod = KEPT
    override_expected: bool = False
    instead: str = ""
    replaces_quietly: bool = False

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions that it was tested with."""
        return {package: INSTALLED[package] for package in self.tested}

    def applies(self, unit: UnitContext) -> bool:
        """Whether it is for this unit."""
        return unit.role in self.roles and self.when.holds(unit)

    def for_unit(self, unit: UnitContext) -> Reason:
        """The rule with its value for a unit that it applies to."""
        value = self.value(unit) if callable(self.value) else self.value
        return Reason(
            self.name, self.sets, value, self.why, self.source, self.without, self.override_expected
        )


def apply(rules: Iterable[Rule], unit: UnitContext) -> tuple[Reason, ...]:
    """The rules that apply to a unit, each with its value there, in their order."""
    return tuple(rule.for_unit(unit) for rule in rules if rule.applies(unit))


def from_user(env: Mapping[str, str]) -> tuple[Reason, ...]:
    """What the user's own environment for a unit gives it."""
    return tuple(
        Reason("user-environment", name, value, "You set it: [env], LMCACHE_* or [lmcache.env].", "the spec")
        for name, value in env.items()
    )


def environment(reasons: Iterable[Reason]) -> dict[str, str]:
    """The variables that are set; a later one wins."""
    return {one.sets: one.value for one in reasons if one.is_variable and one.value is not None}


def unset(reasons: Iterable[Reason], env: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that are taken out of the caller's environment, but for those that the user sets.

    systemd takes variables away last.
    """
    return tuple(one.sets for one in reasons if one.is_variable and one.value is None and one.sets not in env)


def arguments(reasons: Iterable[Reason]) -> tuple[str, ...]:
    """The arguments of the command line."""
    words: list[str] = []
    for one in reasons:
        if one.is_flag:
            words += [one.sets, one.value] if one.value else [one.sets]
    return tuple(words)
