"""Variables that look as if they did something, and do nothing: no process of the plan reads them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import util
from pathlib import Path

from dynamoctl.checks.base import Check, Finding, Level, unit_environ
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan

# Dynamo's variable -> its flag, which the plan gives and which wins, and the flag of `up`.
# ai-dynamo==1.6.1:dynamo/frontend/frontend_args.py; dynamo/common/configuration/groups/router_args.py
_FRONTENDS = {
    "DYN_HTTP_HOST": ("--http-host", "--host"),
    "DYN_HTTP_PORT": ("--http-port", "--port"),
    "DYN_MIGRATION_LIMIT": ("--migration-limit", "--migration-limit"),
}
# What Kubernetes sets in every pod beside a service whose name begins with vllm.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")


def _ignored(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    environ = unit_environ(plan)
    return [*_of_frontend(plan, environ), *_of_vllm(plan, environ), *_key(plan, environ)]


def _of_frontend(plan: DeploymentPlan, environ: Mapping[str, str]) -> list[Finding]:
    if plan.frontend is None:
        return []
    argv, findings = plan.frontend.argv, []
    for name, (flag, ours) in _FRONTENDS.items():
        given = argv[argv.index(flag) + 1] if flag in argv else None
        if given is not None and environ.get(name, given) != given:
            findings.append(
                Finding(
                    Level.WARNING,
                    f"{name}={environ[name]} does nothing: the plan gives the frontend {flag} {given}",
                    f"unset it; for the same effect: {ours} {environ[name]}",
                )
            )
    return findings


def _of_vllm(plan: DeploymentPlan, environ: Mapping[str, str]) -> list[Finding]:
    """vLLM itself says it with one line in the worker's log.

    Source: vllm==0.31.0:vllm/platforms/interface.py:validate_environ.
    """
    known = _dictionary_keys("envs.py", "environment_variables") if plan.engine == "vllm" else frozenset()
    if not known:
        return []
    options = _fields("engine/arg_utils.py", "EngineArgs")
    findings = []
    for name in sorted(environ):
        if not name.startswith("VLLM_") or name in known or _SERVICE_LINK.search(name):
            continue
        option = name.removeprefix("VLLM_").lower()
        near = get_close_matches(name, known, n=1, cutoff=0.85)
        fix = f"did you mean {near[0]}?" if near else "unset it"
        if option in options:
            fix = f"unset it, and give the argument: -- --{option.replace('_', '-')} VALUE"
        findings.append(Finding(Level.WARNING, f"vLLM does not read {name}: it does nothing", fix))
    return findings


def _key(plan: DeploymentPlan, environ: Mapping[str, str]) -> list[Finding]:
    """`vllm serve` asks clients for this key. Dynamo's frontend asks for none."""
    if plan.frontend is None or not environ.get("VLLM_API_KEY"):
        return []
    return [
        Finding(
            Level.WARNING,
            "VLLM_API_KEY protects nothing here: Dynamo's frontend asks clients for no key",
            "put a proxy that does in front of it, and leave --host on the loopback",
            f"whoever reaches {plan.host}:{plan.port} can use the model",
        )
    ]


def _source(path: str) -> ast.Module | None:
    """A source file of the installed vLLM, which is not imported: that takes ten seconds."""
    package = util.find_spec("vllm")
    folders = (package.submodule_search_locations or []) if package is not None else []
    for folder in folders:
        try:
            return ast.parse(Path(folder, path).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
    return None


def _dictionary_keys(path: str, name: str) -> frozenset[str]:
    tree = _source(path)
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return frozenset(str(key.value) for key in keys if isinstance(key, ast.Constant))
    return frozenset()


def _fields(path: str, name: str) -> frozenset[str]:
    tree = _source(path)
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
            return frozenset(field.id for field in fields if isinstance(field, ast.Name))
    return frozenset()


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    return "none" if plan.engine == "vllm" else ""


CHECK = Check("ignored variables", _ignored, _ok)
