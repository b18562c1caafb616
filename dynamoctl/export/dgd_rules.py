"""The rules of Dynamo's operator for a DynamoGraphDeployment (nvidia.com/v1beta1) that need no cluster.

What the resource's schema says of the fields that are written here, the CEL rules beside it and the webhook's
(ai-dynamo/dynamo, deploy/operator, 2026). What needs the cluster (Grove, GPUs, Secrets, claims, images)
`kubectl apply --dry-run=server` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoctl.planner.arguments import argument
from dynamoctl.planner.rules import BY_NAME
from dynamoctl.planner.secrets import redact

_TYPES = ("frontend", "worker", "prefill", "decode", "planner", "epp")
_RESOURCE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_COMPONENT_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?")
# What is 0 or more of Kubernetes's quantities, and the tags out of which the operator reads Dynamo's version.
QUANTITY = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")
VERSION_TAG = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[\w.-]+)?", re.ASCII)
RUNTIME_VERSION = re.compile(r"(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})", re.ASCII)
# The longest name with a component's on the operator's Grove pathway.
_LONGEST = 45
_MOST_COMPONENTS = 25


def broken(body: Mapping[str, Any]) -> list[str]:
    """What the operator would refuse, or its pods not survive; empty where all is right."""
    return list(_of_deployment(body))


def _of_deployment(body: Mapping[str, Any]) -> Iterator[str]:
    name, spec = body["metadata"]["name"], body["spec"]
    components = spec["components"]
    if not _RESOURCE_NAME.fullmatch(name) or len(name) > 63:
        yield f"metadata.name: '{name}' is not a resource name"
    if name[:1].isdigit():
        yield f"metadata.name: '{name}' begins with a digit, and its Service must begin with a letter"
    if "restart" in spec:
        yield "spec.restart: it must be unset when the resource is made"
    if "experimental" in spec:
        yield "spec.experimental: it may change with any version"
    if not 1 <= len(components) <= _MOST_COMPONENTS:
        yield f"spec.components: there are {len(components)}, and 1 to {_MOST_COMPONENTS} are allowed"
    names = [one["name"].lower() for one in components]
    if len(set(names)) < len(names):
        yield "spec.components: two have the same name, capitals aside"
    if sum(one.get("type") == "epp" for one in components) > 1:
        yield "spec.components: there is more than one of type epp"
    for component in components:
        whole = len(name) + len(component["name"])
        if whole > _LONGEST:
            yield (
                f"metadata.name: '{name}' and the component's name {component['name']} have"
                f" {whole} characters together, and {_LONGEST} are allowed"
            )
        for problem in _of_component(component):
            yield f"{component['name']}: {problem}"


def _of_component(component: Mapping[str, Any]) -> Iterator[str]:
    if not _COMPONENT_NAME.fullmatch(component["name"]) or len(component["name"]) > 63:
        yield "name: it has letters, digits and inner hyphens, at most 63"
    if component.get("type") not in _TYPES:
        yield f"type: {component.get('type')} is none of {', '.join(_TYPES)}"
    replicas = component.get("replicas", 1)
    if replicas < 0:
        yield "replicas: it is at least 0"
    if component.get("minAvailable", 0) > replicas > 0:
        yield f"minAvailable: it is more than the {replicas} replicas"
    if component.get("eppConfig") is not None and component.get("type") != "epp":
        yield "eppConfig: it is for the type epp alone"
    if not QUANTITY.fullmatch(str(component.get("sharedMemorySize", "0"))):
        yield f"sharedMemorySize: {component['sharedMemorySize']} is not a quantity of 0 or more"
    containers = component["podTemplate"]["spec"]["containers"]
    main = next((one for one in containers if one["name"] == "main"), None)
    if main is None or not main.get("image"):
        yield "podTemplate: there must be a container `main` with an image"
        return
    image = main["image"]
    says_version = "@" not in image and VERSION_TAG.fullmatch(image.rpartition(":")[2])
    override = component.get("runtimeVersionOverride")
    if override is not None and not RUNTIME_VERSION.fullmatch(override):
        yield f"runtimeVersionOverride: {override} is not of the form MAJOR.MINOR.PATCH"
    if not says_version and override is None:
        yield f"runtimeVersionOverride: it is needed, as the image {image} does not say its version"
    yield from _of_main(component["type"], main)


def _of_main(kind: str, main: Mapping[str, Any]) -> Iterator[str]:
    for variable in main.get("env", ()):
        name, value = variable["name"], variable.get("value", "")
        if name == "DYN_CONNECTOR":
            yield f"DYN_CONNECTOR: {BY_NAME['no-connector-variable'].without}"
        if redact(value, name) != value:
            yield f"env {name}: a secret stands in the manifest"
    if kind not in ("worker", "prefill", "decode"):
        return
    if not main.get("command") or not main.get("args"):
        yield "command and args: a worker needs both, as the operator's own command is /bin/sh -c"
        return
    limits = main.get("resources", {}).get("limits", {})
    gpus = str(limits.get("nvidia.com/gpu", ""))
    if not gpus.isdigit() or int(gpus) < 1:
        yield "resources.limits: nvidia.com/gpu must be a number of GPUs"
    arguments = tuple(main["args"])
    if argument(arguments, "--connector") is not None:
        yield "--connector: dynamo.vllm ends where it is given"
    ranks = argument(arguments, "--tensor-parallel-size") or "1"
    if gpus.isdigit() and ranks.isdigit() and int(gpus) < int(ranks):
        yield f"resources.limits: {gpus} GPUs for {ranks} ranks"
    transfer = argument(arguments, "--kv-transfer-config")
    by_shell = any("--kv-transfer-config" in word for word in main["command"])
    if kind in ("prefill", "decode") and transfer is None and not by_shell:
        yield "--kv-transfer-config: a worker of this kind does not start, or not find the others, without"
    if kind == "decode" and argument(arguments, "--kv-events-config") is not None:
        yield "--kv-events-config: decode publishes no KV events"
    named = {one["name"] for one in main.get("env", ())}
    wrapped = by_shell and "MultiConnector" in " ".join(main["command"])
    if transfer is not None:
        wrapped = json.loads(transfer).get("kv_connector") == "MultiConnector" and "Nixl" in transfer
    if wrapped and "VLLM_NIXL_SIDE_CHANNEL_HOST" not in named:
        yield f"VLLM_NIXL_SIDE_CHANNEL_HOST: {BY_NAME['side-channel-address'].why}"
