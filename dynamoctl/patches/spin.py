"""Cores that are kept busy with waiting.

Before a process of an engine sleeps, vLLM has it look for the next message in a loop without a pause, for a
second. On a CPU that takes a core from the process that computes, or from another worker. With the patch it
sleeps after the variable's number of milliseconds.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch, wrap


def sleep_soon(condition: Any, spin_s: float) -> None:
    """Limit the time for which a reader looks for the next message without a pause.

    vLLM does it in EngineCore while a step is computed, and in a worker process when there is nothing to do.

    Args:
        condition: vLLM's `SpinCondition`.
        spin_s: the limit, in seconds.
    """

    def around(plain: Any) -> Any:
        def initialize(self: Any, *words: Any, **named: Any) -> None:
            plain(self, *words, **named)
            self.busy_loop_s = min(self.busy_loop_s, spin_s)

        return initialize

    wrap(condition, "__init__", around)


def _change(value: str) -> None:
    from vllm.distributed.device_communicators import shm_broadcast

    sleep_soon(shm_broadcast.SpinCondition, float(value) / 1000)


PATCH = Patch(
    name="spin",
    variable="DYNAMOCTL_SPIN_MS",
    package="vllm",
    versions=("0.31.0", "0.26.0"),
    upstream="vllm==0.26.0:vllm/distributed/device_communicators/shm_broadcast.py:SpinCondition.__init__",
    without="processes that wait take cores from those that compute",
    change=_change,
    values=(),
)
