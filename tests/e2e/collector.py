"""An OpenTelemetry collector for tests: it takes spans and logs by OTLP over gRPC and keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc


@dataclass(frozen=True)
class Span:
    """A span, with the service that sent it."""

    service: str
    name: str
    trace: str


class Collector:
    """What has come so far."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._lock, self._spans = threading.Lock(), list[Span]()

    def add(self, request: Any) -> None:
        with self._lock:
            for resource in request.resource_spans:
                attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [
                        Span(attributes.get("service.name", ""), span.name, span.trace_id.hex())
                        for span in scope.spans
                    ]

    def spans(self) -> list[Span]:
        with self._lock:
            return list(self._spans)


@contextmanager
def running() -> Iterator[Collector]:
    """A collector on a free port of the loopback."""
    collector = Collector()

    class Traces(traces_grpc.TraceServiceServicer):
        def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802  (OTLP's name)
            collector.add(request)
            return traces.ExportTraceServiceResponse()

    class Logs(logs_grpc.LogsServiceServicer):
        def Export(self, _request: Any, _context: Any) -> Any:  # noqa: N802  (OTLP's name)
            return logs.ExportLogsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))
    traces_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    logs_grpc.add_LogsServiceServicer_to_server(Logs(), server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(1).wait()
