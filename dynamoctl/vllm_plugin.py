"""A vLLM plugin (entry point group `vllm.general_plugins`): what vLLM 0.26 has no setting for.

**NIXL between CPU workers of one host.** As NIXL 1.3 comes, two things make it slow there:

- It opens UCX with peer error handling. Shared memory does not offer that, so UCX reads the KV blocks
  over TCP, and such a read is answered only when the other side makes progress: an idle prefill worker
  does so after 20 to 33 s. With the UCX backend's parameter `ucx_error_handling_mode=none` the blocks
  go through shared memory.
- Its progress thread asks UCX without a pause, one core for each worker. With `pthrDelay` it sleeps
  until UCX has something for it, at most that long.

**One compile cache for all roles.** vLLM names a compiled model by a hash of its settings and of its
environment, and that takes in the port of NIXL's side channel (`vllm.envs.compile_factors`), which each
worker has for itself: decode and prefill compile the same graphs one after the other, and so does a
later start at other ports. Here the port does not count. It is not in any graph.

vLLM loads plugins in every one of its processes. This one does nothing unless the planner has set a
variable for the worker (`planner.connectors` says when).
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "DYNAMOCTL_NIXL_ON_CPU"
SHARE_COMPILE_CACHE = "DYNAMOCTL_SHARE_COMPILE_CACHE"

UCX_PARAMETERS = {"ucx_error_handling_mode": "none"}
PROGRESS_DELAY_US = 1000


def register() -> None:
    """vLLM calls this, at times more than once in a process."""
    if os.environ.get(SHARE_COMPILE_CACHE) == "1":
        from vllm import envs

        ignore_port(envs)
    if os.environ.get(VARIABLE) == "1":
        _cure_nixl()


def _cure_nixl() -> None:
    # vLLM sets this before it imports NIXL, and cannot any more once somebody else has imported it.
    os.environ.setdefault("UCX_RCACHE_MAX_UNRELEASED", "1024")
    from nixl import _api

    add_parameters(_api.nixl_agent)
    add_delay(_api.nixlBind)


def ignore_port(envs: Any) -> None:
    """Leave the side channel's port out of what names a compiled model; a vLLM that does so is left alone."""
    plain = getattr(envs, "compile_factors", None)
    if plain is None or getattr(plain, "dynamoctl", False):
        return

    def without_port() -> dict[str, object]:
        factors: dict[str, object] = plain()
        factors.pop("VLLM_NIXL_SIDE_CHANNEL_PORT", None)
        return factors

    without_port.dynamoctl = True  # type: ignore[attr-defined]
    envs.compile_factors = without_port


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
