"""Rules for every unit: its environment."""

from __future__ import annotations

from dynamoctl.planner.rules.discovery import DISCOVERY
from dynamoctl.planner.rules.rule import FOR_SUPERVISOR, OPERATORS, Condition, Rule

COMMON = (
    Rule(
        name="hub-offline-for-folders",
        sets="HF_HUB_OFFLINE",
        value="1",
        why="A model that is a folder needs no hub.",
        without="The frontend asks the hub for a mocker's tokenizer, by the name under which the model is"
        " served.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:HF_HUB_OFFLINE",
        tested=("ai-dynamo",),
        when=Condition("if the model is a folder", lambda unit: unit.plan.model.is_folder),
        override_expected=True,
        replaces_quietly=True,
    ),
    *DISCOVERY,
    Rule(
        name="own-namespace",
        sets="DYN_NAMESPACE",
        value=lambda unit: unit.plan.namespace,
        why="Each deployment has a namespace of its own, so that deployments on one host or in one etcd do"
        " not see each other.",
        without="Frontends route requests to workers of other deployments.",
        source="ai-dynamo==1.6.1:dynamo/common/configuration/groups/runtime_args.py:DYN_NAMESPACE",
        tested=("ai-dynamo",),
        in_pod=OPERATORS,
        instead="name the deployment: name, or --name",
    ),
    Rule(
        name="one-hash-seed",
        sets="PYTHONHASHSEED",
        value="0",
        why="LMCache and vLLM derive block hashes from Python's hash of a token block, which must be the same"
        " in every process and on every host.",
        without="Block hashes differ between processes, and no worker finds what another one stored.",
        source="lmcache==0.5.6:lmcache/v1/token_database.py:PYTHONHASHSEED",
        tested=("vllm", "lmcache"),
    ),
    Rule(
        name="unbuffered-output",
        sets="PYTHONUNBUFFERED",
        value="1",
        why="The supervisor reads the start phases and failures of a unit from its log.",
        without="Lines of the log arrive late, and the last lines of a killed process are lost.",
        source="CPython documentation, command line and environment: PYTHONUNBUFFERED",
        tested=("vllm",),
        replaces_quietly=True,
    ),
    Rule(
        name="titles-keep-environ",
        sets="SPT_NOENV",
        value="1",
        why="vLLM sets process titles with setproctitle, which overwrites the memory behind"
        " /proc/PID/environ. Leftover processes are recognized by a variable in it.",
        without="`down` does not find the processes of an engine whose parent died.",
        source="vllm==0.31.0:vllm/utils/system_utils.py:setproctitle",
        tested=("vllm",),
        in_pod=FOR_SUPERVISOR,
        replaces_quietly=True,
    ),
    Rule(
        name="no-sglang-logging",
        sets="DYN_SKIP_SGLANG_LOG_FORMATTING",
        value="1",
        why="Dynamo writes SGLang's logging configuration to a temporary file at every start.",
        without="Every start leaves a temporary file behind.",
        source="ai-dynamo==1.6.1:dynamo/runtime/logging.py:DYN_SKIP_SGLANG_LOG_FORMATTING",
        tested=("ai-dynamo",),
        in_pod=FOR_SUPERVISOR,
        replaces_quietly=True,
    ),
    Rule(
        name="no-usage-reports",
        sets="LMCACHE_TRACK_USAGE",
        value="false",
        why="LMCache reports usage to its authors by default. Only the exact word `false` turns it off.",
        without="LMCache sends usage reports to the internet.",
        source="lmcache==0.5.6:lmcache/usage_telemetry/identity.py:is_usage_tracking_enabled",
        tested=("lmcache",),
        override_expected=True,
    ),
    Rule(
        name="no-banner",
        sets="LMCACHE_DISABLE_BANNER",
        value="1",
        why="LMCache prints a banner at every start.",
        without="The banner is in the log of every unit.",
        source="lmcache==0.5.6:lmcache/banner.py:LMCACHE_DISABLE_BANNER",
        tested=("lmcache",),
        override_expected=True,
    ),
)
