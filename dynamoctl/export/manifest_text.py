"""A manifest as text: YAML, below comments that say what it is, what to fill in and how to apply it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from urllib.parse import quote

from dynamoctl import __version__
from dynamoctl.export.cluster import Cluster
from dynamoctl.export.kubernetes import NAMES, Body, needs_plugin, units_by_role
from dynamoctl.humanize import count, one_line
from dynamoctl.planner.plan import DeploymentPlan


def render(documents: Sequence[Body], plan: DeploymentPlan, cluster: Cluster) -> str:
    """The manifest as YAML, with what must be known above it."""
    import yaml

    head = "".join(f"# {one_line(line)}".rstrip() + "\n" for line in _head(plan, cluster))
    return head + yaml.safe_dump_all(
        documents, sort_keys=False, default_flow_style=False, width=math.inf, explicit_start=True
    )


def _head(plan: DeploymentPlan, cluster: Cluster) -> list[str]:
    """What stands above the manifest: what it is, what is to be filled in, how to apply it."""
    at = f" -n {cluster.namespace}" if cluster.namespace else ""
    workers = " + ".join(
        count(len(units), NAMES[units[0].role].lower()) for units in units_by_role(plan) if units[0].is_worker
    )
    gpus = len(plan.workers[0].gpus)
    return [
        f"{plan.name}: {plan.mode}, {plan.model}; {workers}, {count(gpus, 'GPU')} each.",
        f"Written by dynamoctl {__version__} (export k8s {plan.mode}); not applied to any cluster yet.",
        "",
        "Fill in, or see that it is there:",
        *(line if line.startswith(" ") else f"- {line}" for line in _to_fill_in(plan, cluster)),
        "",
        "Check it against the cluster, apply it, look, ask (FILE is this file):",
        "  kubectl apply --dry-run=server -f FILE      (or - for a pipe)",
        "  kubectl apply -f FILE",
        f"  kubectl get dgd {plan.name}{at}",
        f"  kubectl port-forward svc/{plan.name}-frontend 8000{at}",
        f"  curl -s http://127.0.0.1:8000/v1/models/{quote(plan.model)}/ready",
        "",
        "The set of components cannot change: from agg to disagg or back, first",
        f"  kubectl delete dgd {plan.name}{at}",
    ]


def _to_fill_in(plan: DeploymentPlan, cluster: Cluster) -> list[str]:
    operators = "Dynamo's operator" + (" and LMCache's" if plan.lmcache == "mp" else "")
    versions = cluster.versions
    stack = f"Dynamo {versions['ai-dynamo']}, vLLM {versions['vllm']}, NIXL {versions['nixl']}"
    lmcache = f", LMCache {versions['lmcache']}" if plan.lmcache else ""
    plugin = " and dynamoctl's vLLM plugin (without it answers are wrong)" if needs_plugin(plan) else ""
    image = cluster.image_for(needs_plugin(plan))
    placeholder = ", a placeholder" if needs_plugin(plan) and cluster.image is None else ""
    found = [
        f"{operators} in the cluster",
        f"the image{placeholder}: {image}",
        f"  with {stack}{lmcache}{plugin}",
    ]
    for name in cluster.secrets:
        found.append(f"the Secret {name}; its keys become variables of every pod, as HF_TOKEN")
    if not cluster.secrets:
        found.append("for a gated model a Secret with HF_TOKEN: export again with --secret NAME")
    if cluster.pvc is not None:
        holds = plan.model_path if plan.model_path.startswith("/") else f"{cluster.mount} (HF_HOME)"
        found.append(f"the volume claim {cluster.pvc}, mounted at {cluster.mount} in every pod: {holds}")
    if plan.lmcache == "inproc":
        pinned = plan.lmcache_cpu_gib / len([unit for unit in plan.workers if unit.role != "decode"])
        found.append(f"host memory: LMCache pins {pinned:g} GiB in each pod that caches")
    if plan.lmcache == "mp":
        found.append("the LMCacheEngine's spec.image: the same version of LMCache as in the workers' image")
        found.append("the namespace must allow hostIPC (pod security level `privileged`)")
    return found
