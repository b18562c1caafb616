"""docs/rules.md: the rules about the engine, from `dynamoctl.planner.rules`; docs/generate.py writes it."""

from __future__ import annotations

from dynamoctl.planner.rules import SUBJECTS
from dynamoctl.planner.rules.rule import ALL, WORKERS, Rule

_HEAD = """\
<!-- Written by docs/generate.py from dynamoctl/planner/rules: change a rule there, not here. -->

# Rules about the engine

What the planner gives the processes of a deployment so that Dynamo, vLLM, LMCache and NIXL work together, and
why. `dynamoctl up agg --dry-run --why` prints the rules that apply to your plan.

Your own `[env]` and engine arguments win over a rule. `dynamoctl doctor` and `up` warn if a variable in
`[env]` changes what a rule sets, unless the rule expects it; rules marked with `*` do. The plan stands on
rules marked with `!`: another value in `[env]` is an error, which says how to ask for what you want. Rules
win over the environment that you start `up` in; `doctor` and `up` say which of its variables are not used. A
rule was tested with exactly the versions in its last column, and no others.

A source is `package==version:path:symbol`, with the path as it is in site-packages, an issue, or a
measurement. "In a pod" is what `dynamoctl export k8s` does with it.
"""
_COLUMNS = ("rule", "sets", "for", "why", "without it", "in a pod", "source", "tested with")


def page() -> str:
    """The whole page: a table for each subject."""
    parts = [_HEAD]
    for subject, rules in SUBJECTS.items():
        rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(rule) for rule in rules)]
        parts += [f"## {subject}\n", "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"]
    return "\n".join(parts)


def _row(rule: Rule) -> tuple[str, ...]:
    expected = "\\*" if rule.override_expected else "!" if rule.instead else ""
    pod = f"{rule.in_pod.action}: {rule.in_pod.why}" if rule.in_pod.why else rule.in_pod.action
    source = "; ".join(f"`{one}`" if "==" in one and ":" in one else one for one in rule.source.split("; "))
    tested = ", ".join(f"{package} {version}" for package, version in rule.versions.items())
    return (f"`{rule.name}`{expected}", _sets(rule), _for(rule), rule.why, rule.without, pod, source, tested)


def _sets(rule: Rule) -> str:
    if rule.value is None:
        return f"unsets `{rule.sets}`"
    if callable(rule.value):
        return f"`{rule.sets}`"
    if rule.sets.startswith("--"):
        return f"`{rule.sets} {rule.value}`" if rule.value else f"`{rule.sets}`"
    return f"`{rule.sets}={rule.value}`"


def _for(rule: Rule) -> str:
    names = {ALL: "every unit", WORKERS: "workers"}
    roles = names.get(rule.roles) or ", ".join(rule.roles)
    return f"{roles}, {rule.when.words}" if rule.when.words else roles
