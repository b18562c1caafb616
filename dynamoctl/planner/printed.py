"""A plan as a person reads it. Pure text: its golden files are the planner's tests."""

from __future__ import annotations

import shlex
import textwrap

from dynamoctl.planner.plan import DeploymentPlan, Reason, Unit
from dynamoctl.planner.secrets import redact

_DEVICE = {"cuda": "GPU", "cpu": "CPU"}
_CACHE = {None: "off", "inproc": "in process", "mp": "a server beside the workers"}


def render(plan: DeploymentPlan, why: bool = False) -> str:
    """The whole plan: what, where, and each unit in the order of its start.

    Args:
        why: with the rules that set each unit's variables and flags.
    """
    verified = " and one completion answered" + (" through a KV transfer" if plan.moves_kv_cache else "")
    lines = [
        f"{plan.name}: {plan.mode} on the {_DEVICE[plan.device]}",
        f"  model     {', '.join((plan.model, *plan.model_aliases))}"
        + (f"  ({plan.model_path})" if plan.model_path != plan.model else ""),
        f"  endpoint  {plan.endpoint}/v1" if plan.frontend else "  endpoint  the frontend's, on another host",
        *_hosts(plan),
        f"  LMCache   {_CACHE[plan.lmcache]}"
        + (f", {plan.lmcache_cpu_gib:g} GiB of CPU memory in all" if plan.lmcache else ""),
        f"  ready     every gate passed{verified if plan.frontend else ''}, within {plan.timeout_s:g} s",
    ]
    lines += [f"  note      {note.what}" for note in plan.notes]
    if plan.lmcache:
        lines += ["", *_lmcache(plan)]
    explained: set[str] = set()
    for number, unit in enumerate(plan.units, 1):
        lines += ["", *_unit(number, unit), *(_why(unit, explained) if why else ())]
    return "\n".join(lines)


def _hosts(plan: DeploymentPlan) -> list[str]:
    """Where its other hosts are found, and how they reach this one."""
    if plan.discovery == "file":
        return []
    others = f"; {' and '.join(plan.elsewhere)} on other hosts" if plan.elsewhere else ""
    return [f"  etcd      {', '.join(plan.etcd_endpoints)}; reached at {plan.address}{others}"]


def _lmcache(plan: DeploymentPlan) -> list[str]:
    """LMCache's settings: value and source."""
    names = max(len(one.name) for one in plan.lmcache_settings)
    values = max(len(one.value) for one in plan.lmcache_settings)
    lines = ["LMCache's settings"]
    for one in plan.lmcache_settings:
        lines.append(f"   {one.name:<{names}}  {one.value:<{values}}  {one.source}")
    if plan.lmcache_tokens is not None:
        each = "each rank's CPU memory" if plan.lmcache == "inproc" else "its CPU memory"
        lines.append(f"   {each} holds {plan.lmcache_tokens:,} tokens of {plan.model}")
    return lines


def _unit(number: int, unit: Unit) -> list[str]:
    place = f"  GPU {','.join(str(gpu) for gpu in unit.gpus)}" if unit.gpus else ""
    lines = [f"{number}. {unit.name} ({unit.role}){place}"]
    if unit.after:
        lines.append(f"   after      {', '.join(unit.after)}")
    if unit.ports:
        lines.append("   ports      " + ", ".join(f"{name} {port}" for name, port in unit.ports.items()))
    if unit.kv_transfer_config:
        lines.append(f"   connector  {describe_connector(dict(unit.kv_transfer_config))}")
    lines.append(f"   gate       {unit.gate}")
    lines.append(f"   runs       {wrap(unit.argv, 16)}")
    return lines


def _why(unit: Unit, explained: set[str]) -> list[str]:
    """Each variable and flag that a rule sets, with its value, and the reason and source of each rule once.

    Args:
        explained: the rules that are explained further up; those of this unit are added.
    """
    lines = ["   why"]
    for reason in unit.why:
        overridden = "" if unit.has(reason) else "; overridden"
        lines.append(f"      {_assignment(reason)}  ({reason.rule}{overridden})")
        if reason.rule not in explained:
            explained.add(reason.rule)
            lines += [" " * 9 + line for line in textwrap.wrap(reason.why, 90, break_on_hyphens=False)]
            lines.append(f"         Source: {reason.source}")
    return lines


def _assignment(reason: Reason) -> str:
    value = redact(reason.value, reason.sets)
    if value is None:
        return f"unset {reason.sets}"
    if reason.is_flag:
        return f"{reason.sets} {value}".rstrip()
    return f"{reason.sets}={value}"


def describe_connector(config: dict[str, object]) -> str:
    """`NixlConnector (kv_both)`, or a MultiConnector with what is in it."""
    extra = config.get("kv_connector_extra_config")
    inner = extra.get("connectors") if isinstance(extra, dict) else None
    if isinstance(inner, list):
        parts = ", ".join(describe_connector(one) for one in inner)
        return f"{config['kv_connector']} of [{parts}]"
    return f"{config['kv_connector']} ({config['kv_role']})"


def wrap(argv: tuple[str, ...], indent: int) -> str:
    """The command line, one option a line, as it could be pasted into a shell."""
    lines: list[str] = []
    current: list[str] = []
    for word in argv:
        if word.startswith("--") and current:
            lines.append(" ".join(current))
            current = []
        current.append(shlex.quote(word))
    lines.append(" ".join(current))
    return f" \\\n{' ' * indent}".join(lines)
