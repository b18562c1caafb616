"""A plan as a `DynamoGraphDeployment` (nvidia.com/v1beta1), the resource of Dynamo's Kubernetes operator.

Each role is a component, and its units are the component's replicas. What the operator or the pod decides
(ports, discovery, GPUs by index) is left out: each rule of `planner.rules` says what becomes of it in a pod
(`in_pod`). LMCache's server (mp) is a resource of LMCache's own operator, beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from dynamoctl import patches, policies
from dynamoctl.errors import SpecError
from dynamoctl.export import dgd_rules, pod_environment
from dynamoctl.export.cluster import Cluster
from dynamoctl.lmcache.tables import PREFIX
from dynamoctl.planner import lmcache, migration
from dynamoctl.planner.arguments import argument
from dynamoctl.planner.plan import DeploymentPlan, Role, Unit

Body = dict[str, Any]

NAMES: Mapping[Role, str] = {
    "frontend": "Frontend",
    "agg": "Worker",
    "decode": "Decode",
    "prefill": "Prefill",
}
TYPES: Mapping[Role, str] = {
    "frontend": "frontend",
    "agg": "worker",
    "decode": "decode",
    "prefill": "prefill",
}

# Where the KV router of another pod hears what a worker's cache holds. In a pod the port is free.
_KV_EVENTS_ENDPOINT = "tcp://*:20080"
# Where LMCache's operator puts the connector's configuration, by way of a ConfigMap.
_CONNECTION = "/etc/lmcache"
_CONNECTION_FILE = f"{_CONNECTION}/kv-transfer-config.json"
_LMCACHE_GROUP = "lmcache.lmcache.ai/v1alpha1"
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")  # of an LMCacheEngine


def manifest(plan: DeploymentPlan, cluster: Cluster, own: Mapping[str, str]) -> list[Body]:
    """The resources, in the order in which they should be made.

    Args:
        plan: made for `cluster.host`.
        own: the environment that the user gives every unit; kept whatever it is.

    Raises:
        SpecError: a rule of the operator's is broken.
    """
    common = pod_environment.shared([units[0] for units in units_by_role(plan)], own)
    documents = [_cache_engine(plan, cluster)] if plan.lmcache == "mp" else []
    body = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": _metadata(plan.name, cluster),
        "spec": {
            "backendFramework": "vllm",
            "env": pod_environment.variables(common),
            "components": [_component(plan, cluster, own, common, units) for units in units_by_role(plan)],
        },
    }
    broken = dgd_rules.broken(body)
    if broken:
        hint = "a name is given with --name" if "metadata.name" in broken[0] else "leave out what leads to it"
        raise SpecError(f"the operator would refuse this: {broken[0]}", "\n".join([*broken[1:], hint]))
    return [*documents, body]


def needs_plugin(plan: DeploymentPlan) -> bool:
    """Whether answers would be wrong with an image that has not dynamoctl's vLLM plugin."""
    return any(patch.is_required for unit in plan.units for patch in patches.switched_on(unit.env))


def left_out(plan: DeploymentPlan) -> list[str]:
    """What was asked for of a start on one machine, and has no place in a manifest."""
    found = []
    if plan.host != policies.LOOPBACK:
        found.append(f"host {plan.host}: the operator's frontend listens in its pod, behind a Service")
    if plan.port != policies.HTTP_PORT:
        found.append(f"port {plan.port}: the operator's frontend listens at 8000")
    if plan.drain_s != policies.DRAIN_S:
        found.append(f"drain {plan.drain_s:g} s: a pod has the grace period that the operator gives it")
    if plan.lmcache == "mp":
        ignored = lmcache.ignored_by_server(plan.unit("lmcache").env)
        found += [f"{name}: LMCache's server does not read it" for name in ignored]
    return found


# ---- components -----------------------------------------------------------------------------


def units_by_role(plan: DeploymentPlan) -> list[list[Unit]]:
    """The units of each component, the frontend first."""
    return [found for role in NAMES if (found := [unit for unit in plan.units if unit.role == role])]


def _component(
    plan: DeploymentPlan,
    cluster: Cluster,
    own: Mapping[str, str],
    common: Mapping[str, str],
    units: list[Unit],
) -> Body:
    unit = units[0]  # the others differ in their ports alone
    body: Body = {"name": NAMES[unit.role], "type": TYPES[unit.role], "replicas": len(units)}
    if cluster.runtime_version is not None:
        body["runtimeVersionOverride"] = cluster.runtime_version
    if unit.is_worker:
        # LMCache's server maps the engine's GPU memory by way of the node's /dev/shm, which a volume of the
        # pod's own would hide.
        body["sharedMemorySize"] = "0" if _asks_server(plan, unit) else cluster.shm
    body["podTemplate"] = {"spec": _pod(plan, cluster, unit, pod_environment.alone(unit, common, own))}
    return body


def _pod(plan: DeploymentPlan, cluster: Cluster, unit: Unit, own: Mapping[str, str]) -> Body:
    main: Body = {"name": "main", "image": cluster.image_for(needs_plugin(plan))}
    pod: Body = {"containers": [main]}
    volumes: list[tuple[Body, Body]] = []  # each with its mount
    if unit.is_worker:
        main |= _command(unit, _asks_server(plan, unit))
        # Otherwise a Service that is called `vllm` gives every pod a VLLM_PORT, with which vLLM exits.
        # vllm==0.31.0:vllm/envs.py:get_vllm_port
        pod = {"enableServiceLinks": False, **pod}
    env = [*pod_environment.variables(own), *_pod_address(unit)]
    if unit.role == "frontend":
        env.append({"name": "DYN_ROUTER_MODE", "value": argument(unit.argv, "--router-mode")})
        # The operator writes the frontend's command line.
        if (limit := argument(unit.argv, migration.FLAG)) is not None:
            env.append({"name": migration.VARIABLE, "value": limit})
    if cluster.pvc is not None:
        volumes.append(
            _volume("models", {"persistentVolumeClaim": {"claimName": cluster.pvc}}, cluster.mount)
        )
        if not plan.model_path.startswith("/") and "HF_HOME" not in unit.env:
            env.append({"name": "HF_HOME", "value": cluster.mount})
    volumes += _disk(unit)
    if _asks_server(plan, unit):
        # As LMCache's operator has it: the handshake of shared CUDA memory fails for another user.
        pod = {"hostIPC": True, **pod}
        main["securityContext"] = {"runAsUser": 0}
        config = {"configMap": {"name": f"{_engine_name(plan)}-connection"}}
        volumes.append(_volume("kv-transfer-config", config, _CONNECTION, readOnly=True))
    if env:
        main["env"] = env
    if cluster.secrets:
        main["envFrom"] = [{"secretRef": {"name": name}} for name in cluster.secrets]
    if unit.is_worker:
        main["resources"] = {"limits": {"nvidia.com/gpu": str(len(unit.gpus))}}
    if volumes:
        main["volumeMounts"] = [mount for _, mount in volumes]
        pod["volumes"] = [volume for volume, _ in volumes]
    if cluster.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    return pod


def _command(unit: Unit, asks_server: bool) -> Body:
    """A worker's command and arguments: the unit's own, as far as they hold in a pod."""
    program, *words = unit.argv[2:]  # after the interpreter and -m
    arguments: list[str] = []
    pairs = iter(words)
    for word in pairs:
        if word == "--kv-events-config":
            events = {**json.loads(next(pairs)), "endpoint": _KV_EVENTS_ENDPOINT}
            if unit.role != "decode":  # which publishes none
                arguments += [word, _compact(events)]
        elif word == "--kv-transfer-config" and asks_server:
            next(pairs)
        else:
            arguments.append(word)
    if not asks_server:
        return {"command": ["python3", "-m", program], "args": arguments}
    # The connector's configuration is known in the cluster alone: where the node's server is.
    script = f'exec python3 -m {program} "$@" --kv-transfer-config {_from_connection(unit)}'
    return {"command": ["/bin/sh", "-c", script, "--"], "args": arguments}


def _from_connection(unit: Unit) -> str:
    """A shell word: the unit's connectors, with what LMCache's operator says in the place of ours."""
    said = f'"$(cat {_CONNECTION_FILE})"'
    config = unit.kv_transfer_config or {}
    if config["kv_connector"] != "MultiConnector":
        return said
    mark = "LMCACHE"
    extra = config["kv_connector_extra_config"]
    connectors = [mark if one["kv_connector"].startswith("LMCache") else one for one in extra["connectors"]]
    text = _compact({**config, "kv_connector_extra_config": {**extra, "connectors": connectors}})
    before, after = text.split(json.dumps(mark))
    return f"'{before}'{said}'{after}'"


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _pod_address(unit: Unit) -> list[Body]:
    """Where NIXL's handshake listens. Dynamo finds that out for a plain NixlConnector only."""
    config = unit.kv_transfer_config or {}
    if config.get("kv_connector") != "MultiConnector":
        return []
    field = {"fieldRef": {"fieldPath": "status.podIP"}}
    return [{"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": field}]


def _disk(unit: Unit) -> list[tuple[Body, Body]]:
    """LMCache's disk tier: room on the node that lives as long as the pod."""
    folders = unit.env.get("LMCACHE_LOCAL_DISK", "").split(",")
    gib = math.ceil(float(unit.env.get("LMCACHE_MAX_LOCAL_DISK_SIZE", 0)) * len(unit.gpus))
    size = {"emptyDir": {"sizeLimit": f"{gib}Gi"}}
    return [
        _volume(f"lmcache-disk-{number}", size, folder.removeprefix("file://").rstrip("/"))
        for number, folder in enumerate(folders)
        if folder
    ]


def _volume(name: str, source: Body, path: str, **how: bool) -> tuple[Body, Body]:
    return {"name": name, **source}, {"name": name, "mountPath": path, **how}


# ---- LMCache's server -----------------------------------------------------------------------


def _asks_server(plan: DeploymentPlan, unit: Unit) -> bool:
    """Whether it is a worker that uses LMCache's server; decode workers do not."""
    return plan.lmcache == "mp" and unit.role in ("agg", "prefill")


def _engine_name(plan: DeploymentPlan) -> str:
    return f"{plan.name}-lmcache"


def _cache_engine(plan: DeploymentPlan, cluster: Cluster) -> Body:
    """A server on each node with GPUs, which LMCache's operator runs."""
    argv = plan.unit("lmcache").argv
    policy = argument(argv, "--eviction-policy") or ""
    if policy not in ("LRU", "noop"):
        raise SpecError(
            f"LMCACHE_CACHE_POLICY: LMCache's operator knows LRU and noop, not {policy}", "unset it"
        )
    size = float(argument(argv, "--l1-size-gb") or 0)
    spec: Body = {}
    if cluster.cache_image is not None:
        repository, _, tag = cluster.cache_image.rpartition(":")
        if not repository or "/" in tag:
            repository, tag = cluster.cache_image, "latest"
        spec["image"] = {"repository": repository, "tag": tag}
    spec["server"] = {"chunkSize": int(argument(argv, "--chunk-size") or 0)}
    spec["l1"] = {"sizeGB": int(size) if size.is_integer() else size}
    spec["eviction"] = {"policy": policy}
    adapter = argument(argv, "--l2-adapter")
    if adapter:
        store = json.loads(adapter)
        spec["l2Backend"] = {"resp": {"host": store["host"], "port": store["port"]}}
    settings = _variables_of_server(plan.unit("lmcache"))
    if level := settings.pop("LMCACHE_LOG_LEVEL", "").upper():
        if level not in _LOG_LEVELS:
            raise SpecError(
                f"LMCACHE_LOG_LEVEL: LMCache's operator knows {', '.join(_LOG_LEVELS)}, not {level}",
                "take one of them",
            )
        spec["logLevel"] = level
    if settings:
        spec["env"] = pod_environment.variables(settings)
    return {
        "apiVersion": _LMCACHE_GROUP,
        "kind": "LMCacheEngine",
        "metadata": _metadata(_engine_name(plan), cluster),
        "spec": spec,
    }


def _variables_of_server(server: Unit) -> dict[str, str]:
    """Those of LMCache's variables that its server reads."""
    ignored = (*lmcache.ignored_by_server(server.env), lmcache.POLICY)
    return {
        name: value
        for name, value in pod_environment.kept(server).items()
        if name.startswith(PREFIX) and name not in ignored
    }


def _metadata(name: str, cluster: Cluster) -> Body:
    where = {"namespace": cluster.namespace} if cluster.namespace else {}
    return {"name": name, **where, "labels": {"app.kubernetes.io/managed-by": "dynamoctl"}}
