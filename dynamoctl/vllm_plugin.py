"""A vLLM plugin (entry point group `vllm.general_plugins`): NIXL between CPU workers of one host.

As NIXL 1.3 comes, two things make it slow there, and vLLM 0.26 has no setting that reaches either:

- It opens UCX with peer error handling. Shared memory does not offer that, so UCX reads the KV blocks
  over TCP, and such a read is answered only when the other side makes progress: an idle prefill worker
  does so after 20 to 33 s. With the UCX backend's parameter `ucx_error_handling_mode=none` the blocks
  go through shared memory.
- Its progress thread asks UCX without a pause, one core for each worker. With `pthrDelay` it sleeps
  until UCX has something for it, at most that long.

vLLM loads plugins in every one of its processes. This one does nothing unless the planner has set
`VARIABLE` for the worker (`planner.connectors.cpu_transfer_environment` says when).
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "DYNAMOCTL_NIXL_ON_CPU"

UCX_PARAMETERS = {"ucx_error_handling_mode": "none"}
PROGRESS_DELAY_US = 1000


def register() -> None:
    """vLLM calls this, at times more than once in a process."""
    if os.environ.get(VARIABLE) != "1":
        return
    # vLLM sets this before it imports NIXL, and cannot any more once somebody else has imported it.
    os.environ.setdefault("UCX_RCACHE_MAX_UNRELEASED", "1024")
    from nixl import _api

    add_parameters(_api.nixl_agent)
    add_delay(_api.nixlBind)


def add_parameters(agent: Any) -> None:
    """Make every agent of this class open UCX with our parameters, where its caller gives no others."""
    create_backend = agent.create_backend
    if getattr(create_backend, "dynamoctl", False):
        return

    def with_parameters(self: Any, backend: str, initParams: dict[str, str] | None = None) -> Any:  # noqa: N803  (NIXL's name)
        ours = UCX_PARAMETERS if backend == "UCX" else {}
        return create_backend(self, backend, {**ours, **(initParams or {})})

    with_parameters.dynamoctl = True  # type: ignore[attr-defined]
    agent.create_backend = with_parameters


def add_delay(bindings: Any) -> None:
    """Make every agent's progress thread pause, where its caller has not chosen how long."""
    plain = bindings.nixlAgent
    if getattr(plain, "dynamoctl", False):
        return

    class Agent(plain):  # type: ignore[valid-type, misc]
        dynamoctl = True

        def __init__(self, name: str, config: Any) -> None:
            config.pthrDelay = config.pthrDelay or PROGRESS_DELAY_US
            super().__init__(name, config)

    bindings.nixlAgent = Agent
