"""Rules for what no worker inherits: variables that would make it something else than the plan's worker."""

from __future__ import annotations

from dataclasses import replace

from dynamoctl.planner.rules.inherited import DYNAMO, cleared
from dynamoctl.planner.rules.rule import WORKERS

_TEXT = (
    *(
        cleared(
            name,
            "The plan's workers generate text, and `up` verifies that with a completion.",
            without,
            f"{DYNAMO}/common/configuration/groups/runtime_args.py",
            WORKERS,
        )
        for name, without in (
            ("DYN_ENDPOINT_TYPES", "A worker that offers no completions is never verified."),
            ("DYN_OUTPUT_MODALITIES", "A worker registers for images or sound instead of text."),
        )
    ),
    *(
        cleared(
            name,
            "The plan's workers generate text with vLLM under Dynamo, and `up` verifies that.",
            without,
            f"{DYNAMO}/vllm/backend_args.py",
            WORKERS,
        )
        for name, without in (
            ("DYN_VLLM_USE_TOKENIZER", "Workers offer chat alone, and the verifying completion fails."),
            ("DYN_VLLM_HEADLESS", "A worker serves no endpoint, and its gate never opens."),
            ("DYN_VLLM_EMBEDDING_WORKER", "Workers make embeddings instead of text."),
            ("DYN_VLLM_EMBEDDING_FRONTEND_TOKENIZATION", "Workers that do not embed exit at the start."),
            ("DYN_VLLM_EMBEDDING_WORKER_PROCESSES", "Workers that do not embed exit at the start."),
            ("DYN_VLLM_CLASSIFY_WORKER", "Workers classify instead of generating text."),
            ("DYN_VLLM_REALTIME", "Workers serve the realtime endpoint alone."),
            ("DYN_VLLM_ROUTE_TO_ENCODER", "Workers wait for an encode worker, which the plan does not have."),
            ("DYN_VLLM_MULTIMODAL_WORKER", "Dynamo no longer takes it, and workers exit."),
            ("DYN_VLLM_MULTIMODAL_DECODE_WORKER", "Dynamo no longer takes it, and workers exit."),
            ("DYN_VLLM_MULTIMODAL_ENCODE_WORKER", "Dynamo no longer takes it, and workers exit."),
            ("DYN_VLLM_GMS_SHADOW_MODE", "Workers stand by for another one, or exit at the start."),
            ("DYN_BENCHMARK_MODE", "Each worker measures itself at the start, for up to 15 minutes."),
            ("DYN_BENCHMARK_POINTS_FILE", "Workers that do not measure themselves exit at the start."),
            ("DYN_BENCHMARK_HYBRID_LIVE_STATE", "Workers that do not measure themselves exit at the start."),
            (
                "DYN_BENCHMARK_RANDOMIZE_KDA_STATE",
                "Workers that do not measure themselves exit at the start.",
            ),
        )
    ),
    cleared(
        "DYN_VLLM_EMBEDDING_PROCESS_ROLE",
        "Dynamo sets it for the children of an embedding worker.",
        "A worker takes itself for such a child.",
        f"{DYNAMO}/vllm/embedding_worker_processes.py",
        WORKERS,
    ),
    cleared(
        "DYN_GMS_USE_V1",
        "Dynamo's operator sets it for pods that share GPU memory.",
        "Workers load a package that is not installed, and exit.",
        f"{DYNAMO}/vllm/args.py",
        WORKERS,
    ),
    cleared(
        "DYN_SNAPSHOT_CONTROL_DIR",
        "Dynamo's operator sets it in pods of which it takes snapshots.",
        "A worker waits for its snapshot to be taken, and never registers.",
        f"{DYNAMO}/common/snapshot/constants.py",
        WORKERS,
    ),
    cleared(
        "DYN_TOPOLOGY_ENABLED",
        "Dynamo's operator sets it, and mounts the topology of the cluster.",
        "A worker looks for that topology, and exits.",
        f"{DYNAMO}/common/utils/topology.py",
        WORKERS,
    ),
)
_ONE_ENGINE = tuple(
    replace(
        cleared(
            name,
            "vLLM takes its data parallelism from the environment if no argument says it.",
            "Each worker wants more GPUs than the plan gives it, and waits for ranks that nobody starts.",
            "vllm==0.31.0:vllm/config/parallel.py",
            WORKERS,
        ),
        instead="add workers: --workers, --decode or --prefill",
    )
    for name in (
        "VLLM_DP_SIZE",
        "VLLM_DP_RANK",
        "VLLM_DP_RANK_LOCAL",
        "VLLM_DP_MASTER_IP",
        "VLLM_DP_MASTER_PORT",
    )
)

INHERITED_BY_WORKERS = (*_TEXT, *_ONE_ENGINE)
