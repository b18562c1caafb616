"""A prefill worker that does not end.

Dynamo 1.4 shuts an engine down when an aggregated or a decode worker ends, and leaves a prefill worker's
engine to Python, which asks it to end and waits without a limit: some seconds on a CPU, and on GPUs the 30 s
after which the supervisor kills it. With the patch it is shut down as the others are.
"""

from __future__ import annotations

import atexit
import weakref
from typing import Any

from dynamoctl.patches.base import Patch, wrap


def end_with_the_process(client: Any) -> None:
    """Shut down what an engine's client has started, before Python waits for it.

    Python runs at its end what was registered last first, and it waits for processes by something registered
    when `multiprocessing` was imported.

    Args:
        client: vLLM's `MPClient`.
    """

    def around(plain: Any) -> Any:
        def initialize(self: Any, *words: Any, **named: Any) -> None:
            plain(self, *words, **named)
            atexit.register(_shut_down, weakref.ref(self))

        return initialize

    wrap(client, "__init__", around)


def _shut_down(reference: weakref.ref[Any]) -> None:
    client = reference()
    if client is not None:
        client.shutdown(timeout=0)  # does nothing the second time


def _change(_value: str) -> None:
    from vllm.v1.engine import core_client

    end_with_the_process(core_client.MPClient)


PATCH = Patch(
    name="end-engine",
    variable="DYNAMOCTL_END_ENGINE",
    package="vllm",
    versions=("0.26.0",),
    upstream="ai-dynamo==1.4.2:dynamo/vllm/worker_factory.py:WorkerFactory._create_prefill_worker",
    without="a prefill worker takes long to end",
    change=_change,
    only_with=("ai-dynamo", "1.4.2"),
)
