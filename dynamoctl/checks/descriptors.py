"""The limit on open files of a process. The supervisor raises the soft limit to the hard one."""

from __future__ import annotations

import resource

from dynamoctl.checks.base import Check, Finding, Level
from dynamoctl.facts import HostFacts, ModelFacts
from dynamoctl.planner.plan import DeploymentPlan

# Open files of one process. vLLM asks for 65,535; an idle worker on a CPU has some hundred.
WARNING_LIMIT = 4096
ERROR_LIMIT = 512


def _descriptors(_plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> list[Finding]:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit == resource.RLIM_INFINITY or hard_limit >= WARNING_LIMIT:
        return []
    return [
        Finding(
            Level.ERROR if hard_limit < ERROR_LIMIT else Level.WARNING,
            f"a process can open no more than {hard_limit} files and sockets (ulimit -Hn)",
            "raise the limit to 65535: nofile in /etc/security/limits.conf, LimitNOFILE in a systemd unit, or"
            " docker run --ulimit nofile=65535",
        )
    ]


def _ok(plan: DeploymentPlan, _facts: HostFacts, _model: ModelFacts) -> str:
    if plan.engine != "vllm":
        return ""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = "any number of" if hard_limit == resource.RLIM_INFINITY else f"{hard_limit:,}"
    return f"a process can open {allowed} files and sockets"


CHECK = Check("descriptors", _descriptors, _ok)
