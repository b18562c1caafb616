"""KV blocks between CPU workers of one host go through shared memory.

NIXL 1.3 opens UCX with peer error handling. Shared memory does not offer that, so UCX reads the KV blocks
over TCP, and such a read is answered only when the other side makes progress: an idle prefill worker does so
after 20 to 33 s. With the UCX backend's parameter `ucx_error_handling_mode=none` the blocks go through shared
memory. Between hosts UCX must see that a peer is gone, and keeps its error handling.
"""

from __future__ import annotations

import os
from typing import Any

from dynamoctl.patches.base import Patch, wrap

UCX_PARAMETERS = {"ucx_error_handling_mode": "none"}


def add_parameters(agent: Any) -> None:
    """Make every agent of this class open UCX with our parameters, unless its caller gives others.

    Args:
        agent: NIXL's `nixl_agent`.
    """

    def around(plain: Any) -> Any:
        def with_parameters(self: Any, backend: str, initParams: dict[str, str] | None = None) -> Any:  # noqa: N803  (NIXL's name)
            ours = UCX_PARAMETERS if backend == "UCX" else {}
            return plain(self, backend, {**ours, **(initParams or {})})

        return with_parameters

    wrap(agent, "create_backend", around)


def import_nixl() -> Any:
    """The module `nixl._api`.

    vLLM sets a variable before it imports NIXL, and cannot any more once somebody else has imported it.
    """
    os.environ.setdefault("UCX_RCACHE_MAX_UNRELEASED", "1024")
    from nixl import _api

    return _api


def _change(_value: str) -> None:
    add_parameters(import_nixl().nixl_agent)


PATCH = Patch(
    name="nixl-shared-memory",
    variable="DYNAMOCTL_NIXL_ON_CPU",
    package="nixl",
    versions=("1.4.1", "1.3.2"),
    upstream="nixl-cu13==1.3.2:nixl_cu13/_api.py:nixl_agent.create_backend",
    without="NIXL stalls between CPU workers",
    change=_change,
)
