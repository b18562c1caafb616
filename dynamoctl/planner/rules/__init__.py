"""The rules about the engine: "NIXL needs X with vLLM 0.26 because Y". Each is one value.

The planner applies them, `up --dry-run --why` prints those that were applied, `doctor` warns if the user's
environment breaks one, `export k8s` reads what becomes of each in a pod, and docs/rules.md lists them.
A rule that computes more than a value has its function in the planner, and its reason here.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamoctl.planner.rules import (
    common,
    cpu,
    frontend,
    gpu,
    inherited,
    inherited_worker,
    lmcache,
    nixl,
    traces,
    worker,
)
from dynamoctl.planner.rules.rule import Rule

# By subject, in the order of the documentation.
SUBJECTS: Mapping[str, tuple[Rule, ...]] = {
    "Every unit": common.COMMON,
    "What no unit inherits": (*inherited.INHERITED, *lmcache.UNSET),
    "What no worker inherits": inherited_worker.INHERITED_BY_WORKERS,
    "Frontend": frontend.FRONTEND,
    "vLLM workers": worker.WORKER,
    "KV transfers with NIXL": (*nixl.SIDE_CHANNEL, *nixl.TRANSFER),
    "LMCache in process": lmcache.ENGINE,
    "LMCache's server": (*lmcache.SERVER, *lmcache.CLIENT),
    "On a CPU": cpu.CPU,
    "On GPUs": gpu.GPU,
    "Mockers": frontend.MOCKER,
    "Traces": (*traces.TRACES, *traces.ENGINE_TRACES),
}
RULES: tuple[Rule, ...] = tuple(rule for rules in SUBJECTS.values() for rule in rules)
BY_NAME: Mapping[str, Rule] = {rule.name: rule for rule in RULES}
