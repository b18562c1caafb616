"""Rules for the frontend, and for the mocker, which is not an engine."""

from __future__ import annotations

from dynamoctl.planner import migration, model_length
from dynamoctl.planner.rules.rule import OPERATORS, WORKERS, Condition, InPod, Rule

_NO_MOCKER = InPod("dropped", "the mocker is not exported")

FRONTEND = (
    Rule(
        name="migration-limit",
        sets=migration.FLAG,
        value=lambda unit: str(migration.limit(unit.spec)),
        why="If a worker dies or leaves, the frontend moves its requests to another worker of the role, at"
        " most this often for each request.",
        without="The requests of a worker that dies fail, and some of one that leaves.",
        source="ai-dynamo-runtime==1.6.1:lib/llm/src/migration.rs",
        tested=("ai-dynamo", "vllm"),
        roles=("frontend",),
        when=Condition(
            "unless DYN_MIGRATION_LIMIT is in [env]",
            lambda unit: migration.limit(unit.spec) is not None,
        ),
        in_pod=InPod(
            "changed", f"{migration.VARIABLE} instead: the operator writes the frontend's command line"
        ),
        override_expected=True,
    ),
)

MOCKER = (
    Rule(
        name="mocker-status-port",
        sets="DYN_SYSTEM_PORT",
        value=lambda unit: str(unit.ports["system"]),
        why="The mocker has a status server only with this variable, and its gate asks there.",
        without="Nobody can tell when the mocker is ready.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:DYN_SYSTEM_PORT",
        tested=("ai-dynamo",),
        roles=WORKERS,
        in_pod=OPERATORS,
        instead="each worker has a port of its own, which the plan chooses",
    ),
    Rule(
        name="mocker-hosts-tokenizer",
        sets="DYN_SELF_HOST_METADATA",
        value="1",
        why="Without a hub, the frontend gets the tokenizer's files from the mocker itself.",
        without="The frontend asks a hub for the tokenizer.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:DYN_SELF_HOST_METADATA",
        tested=("ai-dynamo",),
        roles=WORKERS,
        in_pod=_NO_MOCKER,
    ),
    Rule(
        name="mocker-drain-has-a-limit",
        sets="DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS",
        value=lambda unit: f"{unit.spec.drain_s:g}",
        why="Requests in flight may finish for as long as --drain says, as with an engine.",
        without="The mocker finishes its requests, until the supervisor kills it 25 s after --drain.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS",
        tested=("ai-dynamo",),
        roles=WORKERS,
        in_pod=_NO_MOCKER,
    ),
    Rule(
        name="mocker-context-length",
        sets="--max-model-len",
        value=lambda unit: str(model_length.own_context(unit.plan.model.config)),
        why="A vLLM worker refuses a prompt that is longer than the model's context. Without a length, the"
        " mocker takes any.",
        without="A prompt that works with the mocker can fail with the engine.",
        source="ai-dynamo==1.6.1:dynamo/mocker/args.py:--max-model-len",
        tested=("ai-dynamo",),
        roles=WORKERS,
        when=Condition(
            "if the model's config.json says how long its context is",
            lambda unit: model_length.own_context(unit.plan.model.config) is not None,
        ),
        in_pod=_NO_MOCKER,
        override_expected=True,
    ),
)
