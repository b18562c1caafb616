"""Rules for traces by OTLP, with --otlp-endpoint.

LMCache's server is left out: told where to send traces, it no longer serves the metrics that `status` reads
(lmcache==0.5.6:lmcache/v1/mp_observability/config.py:otlp_endpoint).
"""

from __future__ import annotations

from dynamoctl.planner.context import UnitContext
from dynamoctl.planner.rules.rule import WORKERS, Condition, Rule

_SENT = Condition("with otlp_endpoint", lambda unit: unit.spec.otlp_endpoint is not None)
_TRACED = ("frontend", *WORKERS)


def _endpoint(unit: UnitContext) -> str:
    return unit.spec.otlp_endpoint or ""


TRACES = (
    Rule(
        name="traces-sent",
        sets="OTEL_EXPORT_ENABLED",
        value="true",
        why="Dynamo sends traces and logs by OTLP only with this variable.",
        without="No spans of the frontend and of Dynamo's part of a worker arrive.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:OTEL_EXPORT_ENABLED",
        tested=("ai-dynamo",),
        roles=_TRACED,
        when=_SENT,
        override_expected=True,
    ),
    Rule(
        name="traces-endpoint",
        sets="OTEL_EXPORTER_OTLP_ENDPOINT",
        value=_endpoint,
        why="It is where Dynamo sends traces and logs.",
        without="Dynamo sends them to localhost:4317.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:OTEL_EXPORTER_OTLP_ENDPOINT",
        tested=("ai-dynamo",),
        roles=_TRACED,
        when=_SENT,
        override_expected=True,
    ),
    Rule(
        name="traces-by-unit",
        sets="OTEL_SERVICE_NAME",
        value=lambda unit: unit.place.name if unit.place else unit.role,
        why="A trace shows which unit did what.",
        without="All of Dynamo's spans are of one service, `dynamo`.",
        source="ai-dynamo-runtime==1.6.1:dynamo/_core.abi3.so:OTEL_SERVICE_NAME",
        tested=("ai-dynamo", "vllm"),
        roles=_TRACED,
        when=_SENT,
        override_expected=True,
    ),
)

ENGINE_TRACES = (
    Rule(
        name="engine-traces",
        sets="--otlp-traces-endpoint",
        value=_endpoint,
        why="vLLM sends a span for each request: the time in its queue, to the first token and to the last.",
        without="A trace ends where vLLM begins.",
        source="vllm==0.31.0:vllm/config/observability.py:otlp_traces_endpoint",
        tested=("vllm",),
        roles=WORKERS,
        when=_SENT,
        override_expected=True,
    ),
)
