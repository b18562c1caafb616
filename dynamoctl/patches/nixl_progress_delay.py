"""NIXL's progress thread.

It asks UCX without a pause: an idle agent takes a whole core, and on a GPU the thread also slows down the
transfers that it is there for (benchmarks/nixl_progress_delay.py: 31 MB between two H200 took 8.5 ms, and
1.9 to 2.7 ms with a pause of 10 ms). With `pthrDelay` it sleeps until UCX has something for it, at most that
long. This is done on one host and between hosts.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch
from dynamoctl.patches.nixl_shared_memory import import_nixl

# Microseconds: of those that were measured, the longest that costs a transfer nothing.
DELAY_US = {"cpu": 1_000, "cuda": 10_000}
# The versions that were measured on GPUs.
ON_GPUS = ("1.4.1",)


def add_delay(bindings: Any, delay_us: int) -> None:
    """Make every agent's progress thread pause, unless its caller has chosen how long.

    Args:
        bindings: the module of NIXL's bindings.
        delay_us: microseconds.
    """
    plain = bindings.nixlAgent
    if getattr(plain, "dynamoctl", False):
        return

    class Agent(plain):  # type: ignore[valid-type, misc]
        dynamoctl = True

        def __init__(self, name: str, config: Any) -> None:
            config.pthrDelay = config.pthrDelay or delay_us
            super().__init__(name, config)

    bindings.nixlAgent = Agent


def _change(value: str) -> None:
    add_delay(import_nixl().nixlBind, int(value))


PATCH = Patch(
    name="nixl-progress-delay",
    variable="DYNAMOCTL_NIXL_PROGRESS_DELAY_US",
    package="nixl",
    versions=("1.4.1", "1.3.2"),
    upstream="nixl-cu13==1.3.2:nixl_cu13/_api.py:nixl_agent.__init__",
    without="NIXL's progress thread keeps a core busy for each rank",
    change=_change,
    values=(),
)
