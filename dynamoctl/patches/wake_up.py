"""A call between two processes of an engine that is not heard.

An engine of several processes hands calls and results on in shared memory. A process that has waited for a
second sleeps until its neighbour wakes it for the next one, by a ZMQ socket that drops what does not fit (its
queue holds one message). If such a message is lost, the result lies there and nobody looks: for 60 s if vLLM
waits with a limit, for ever if it waits for calls. With the patch a sleeper looks by itself ten times a
second.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch, wrap

WAKE_UP_MS = 100


def look_by_itself(condition: Any) -> None:
    """End each wait for a message after a while; its caller looks into the shared memory and waits again.

    Args:
        condition: vLLM's `SpinCondition`.
    """

    def around(plain: Any) -> Any:
        def wait(self: Any, timeout_ms: int | None = None) -> None:
            plain(self, WAKE_UP_MS if timeout_ms is None else min(timeout_ms, WAKE_UP_MS))

        return wait

    wrap(condition, "wait", around)


def _change(_value: str) -> None:
    from vllm.distributed.device_communicators import shm_broadcast

    look_by_itself(shm_broadcast.SpinCondition)


PATCH = Patch(
    name="wake-up",
    variable="DYNAMOCTL_WAKE_UP",
    package="vllm",
    versions=("0.31.0", "0.26.0"),
    upstream="vllm==0.26.0:vllm/distributed/device_communicators/shm_broadcast.py:SpinCondition.wait",
    without="an engine that misses a call of its own stalls for a minute or longer",
    change=_change,
)
