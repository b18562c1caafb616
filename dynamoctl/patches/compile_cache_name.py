"""One compile cache for all roles.

vLLM names a compiled model by a hash of its settings and of its environment, and that takes in the port of
NIXL's side channel, which each worker has for itself. So decode and prefill compile the same graphs one
after the other, and so does a later start at other ports. With the patch the port does not count: it is in
no graph.
"""

from __future__ import annotations

from typing import Any

from dynamoctl.patches.base import Patch, wrap


def ignore_port(envs: Any) -> None:
    """Leave the side channel's port out of what names a compiled model.

    Args:
        envs: the module `vllm.envs`.
    """

    def around(plain: Any) -> Any:
        def without_port() -> dict[str, object]:
            factors: dict[str, object] = plain()
            factors.pop("VLLM_NIXL_SIDE_CHANNEL_PORT", None)
            return factors

        return without_port

    wrap(envs, "compile_factors", around)


def _change(_value: str) -> None:
    from vllm import envs

    ignore_port(envs)


PATCH = Patch(
    name="compile-cache-name",
    variable="DYNAMOCTL_SHARE_COMPILE_CACHE",
    package="vllm",
    versions=("0.31.0", "0.26.0"),
    upstream="vllm==0.26.0:vllm/envs.py:compile_factors",
    without="each worker with NIXL compiles the model for itself, at every start",
    change=_change,
)
