"""What a user chooses from: literals, without pydantic, so that the CLI can import them cheaply."""

from __future__ import annotations

import re
from typing import Literal, get_args

Mode = Literal["agg", "disagg"]
Device = Literal["auto", "cuda", "cpu"]
Engine = Literal["vllm", "mocker"]
StartOrder = Literal["ordered", "overlapped"]
RouterMode = Literal[
    "round-robin", "random", "power-of-two", "kv", "direct", "least-loaded", "device-aware-weighted"
]
LMCacheMode = Literal["auto", "inproc", "mp"]
Discovery = Literal["file", "etcd"]
HostRole = Literal["frontend", "agg", "decode", "prefill"]

ROUTER_MODES: tuple[str, ...] = get_args(RouterMode)

# What a deployment consists of, in the order in which it is started; `--roles` takes some of them.
ROLES: dict[Mode, tuple[HostRole, ...]] = {
    "agg": ("frontend", "agg"),
    "disagg": ("frontend", "decode", "prefill"),
}

CONFIG_NAME = "dynamoctl.toml"

# A deployment's name becomes a folder, a Dynamo namespace and later a Kubernetes name.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
NAME_RULE = "a name has 1 to 32 lower-case letters, digits and inner hyphens, as in qwen-prod"
