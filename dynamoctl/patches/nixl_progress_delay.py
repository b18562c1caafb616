"""NIXL's progress thread on a CPU.

It asks UCX without a pause, which takes one core for each worker. With `pthrDelay` it sleeps until UCX has
something for it, at most that long. This is done on one host and between hosts.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch
from dynamoctl.patches.nixl_shared_memory import BETWEEN_HOSTS, ON_ONE_HOST, VARIABLE, import_nixl

PROGRESS_DELAY_US = 1000


def add_delay(bindings: Any) -> None:
    """Make every agent's progress thread pause, unless its caller has chosen how long.

    Args:
        bindings: the module of NIXL's bindings.
    """
    plain = bindings.nixlAgent
    if getattr(plain, "dynamoctl", False):
        return

    class Agent(plain):  # type: ignore[valid-type, misc]
        dynamoctl = True

        def __init__(self, name: str, config: Any) -> None:
            config.pthrDelay = config.pthrDelay or PROGRESS_DELAY_US
            super().__init__(name, config)

    bindings.nixlAgent = Agent


def _change(_value: str) -> None:
    add_delay(import_nixl().nixlBind)


PATCH = Patch(
    name="nixl-progress-delay",
    variable=VARIABLE,
    package="nixl",
    versions=("1.4.1", "1.3.2"),
    upstream="nixl-cu13==1.3.2:nixl_cu13/_api.py:nixl_agent.__init__",
    without="NIXL's progress thread keeps a core busy for each CPU worker",
    change=_change,
    values=(ON_ONE_HOST, BETWEEN_HOSTS),
)
