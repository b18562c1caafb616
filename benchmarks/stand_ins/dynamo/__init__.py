"""Light stand-ins for Dynamo's frontend and mocker, for benchmarks/own_speed.py.

They answer the supervisor's questions and register as Dynamo 1.4 does; they serve nothing.
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# About as large as a worker's page.
_PAGE = "".join(f'dynamo_component_standin_total{{name="{i}"}} {i}\n' for i in range(100))
_CARD_BYTES = 4000


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _reply(self, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Ready, from the first."""
        if self.path == "/metrics":
            self._reply(_PAGE)
        else:
            self._reply(json.dumps({"ready": True, "endpoints": {"generate": "ready"}}))

    def do_POST(self) -> None:
        """A completion of one token."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(json.dumps({"usage": {"completion_tokens": 1}}))

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serve(port: int) -> None:
    """Until it is ended."""
    ThreadingHTTPServer(("127.0.0.1", port), _Answer).serve_forever()


def register(port: int) -> None:
    """Write what a worker writes into the deployment's store."""
    store, number = Path(os.environ["DYN_FILE_KV"]) / "v1", os.getpid()
    address = f"127.0.0.1:{port}"
    bodies: dict[str, dict[str, Any]] = {
        "instances": {"transport": {"tcp": f"{address}/{number:x}/generate"}},
        "mdc": {"type": "Model", "instance_id": number, "card_json": {"filler": "x" * _CARD_BYTES}},
        "event_channels": {"type": "EventChannel", "transport": {"config": {"endpoint": f"tcp://{address}"}}},
        "event_sources": {"metadata": {"worker": {"worker_id": number}}},
    }
    for kind, body in bodies.items():
        (store / kind).mkdir(parents=True, exist_ok=True)
        (store / kind / f"stand-in%2Fgenerate%2F{number:x}").write_text(json.dumps(body))
