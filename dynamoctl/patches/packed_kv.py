"""How LMCache, in process, copies the KV cache of vLLM 0.26, which packs K and V.

vLLM 0.26 keeps K and V of a head side by side. A layer lies in memory as [blocks, block size, heads,
2 x head size] (NHD) or [blocks, heads, block size, 2 x head size] (HND, which NIXL asks for). LMCache 0.5.3
names both layouts, but in process it hands its kernel a buffer of [2, layers, tokens, heads x head size]
with them, as if K and V were apart: the kernel takes a token's row for half as long as it is, copies other
tokens' values, and gives them back to the wrong places. Answers are wrong and nothing says so
(https://github.com/LMCache/LMCache/issues/4463; its cache server is right).

A buffer has room for the very bytes that a token has, so here they are copied as they lie, one row after
the other, by the same kernel in its layout for latent attention (MLA), which has one row for a token. With
NHD that row is the token's whole K and V of a layer. With HND it is one head's, and each token has as many
rows as there are heads, in the order of NHD: what workers of both kinds keep is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamoctl.patches.base import Patch, wrap

# Where this was worked out. Another version may copy in another way.
LMCACHE_VERSIONS = ("0.5.3",)


def around(plain: Callable[..., None], layouts: Any) -> Callable[..., None]:
    """LMCache's `multi_layer_kv_transfer` with packed layouts copied row by row.

    Args:
        plain: the function as LMCache has it.
        layouts: its enumeration of layouts (`EngineKVFormat`).
    """

    def transfer(
        buffer: Any,
        layers: Any,
        slots: Any,
        device: Any,
        page_buffer_size: int,
        direction: Any,
        layout: Any,
        block_size: int = 0,
        head_size: int = 0,
        skip_prefix_n_tokens: int = 0,
    ) -> None:
        """Copy between `buffer`, [2, layers, tokens, heads x head size], and the slots of the KV cache.

        Args:
            head_size: elements of a head's K and V together, with a packed layout.
        """
        rows = 1
        if layout == layouts.NL_X_NB_NH_BS_CS:
            rows = buffer.shape[0] * buffer.shape[3] // head_size
            slots = slots_of_heads(slots, rows, block_size)
        elif layout != layouts.NL_X_NB_BS_NH_CS:
            plain(
                buffer, layers, slots, device, page_buffer_size, direction, layout,
                block_size=block_size, head_size=head_size, skip_prefix_n_tokens=skip_prefix_n_tokens,
            )  # fmt: skip
            return
        row_size = buffer.shape[0] * buffer.shape[3] // rows
        plain(
            buffer.view(1, buffer.shape[1], buffer.shape[2] * rows, row_size),
            layers, slots, device, page_buffer_size * rows, direction, layouts.NL_X_NB_BS_HS,
            block_size=block_size, head_size=row_size, skip_prefix_n_tokens=skip_prefix_n_tokens * rows,
        )  # fmt: skip

    return transfer


def slots_of_heads(slots: Any, heads: int, block_size: int) -> Any:
    """Where the rows of each token's heads are, in HND: [tokens] becomes [tokens x heads].

    A block has `block size` rows for the first head, then as many for the next. A negative slot, which
    is skipped, stays negative.
    """
    import torch

    head = torch.arange(heads, device=slots.device, dtype=slots.dtype)
    blocks = torch.div(slots, block_size, rounding_mode="floor")
    found = (blocks[:, None] * heads + head) * block_size + (slots % block_size)[:, None]
    return torch.where(slots[:, None] < 0, slots[:, None], found).flatten()


def _change(_value: str) -> None:
    from lmcache.v1.platform import resolve_device_ops, torch_device_type

    ops = resolve_device_ops(torch_device_type)
    # What `lmcache.c_ops` gives for this name, to LMCache as well.
    wrap(ops, "multi_layer_kv_transfer", lambda plain: around(plain, ops.EngineKVFormat))


PATCH = Patch(
    name="packed-kv",
    variable="DYNAMOCTL_LMCACHE_PACKED_KV",
    package="lmcache",
    versions=LMCACHE_VERSIONS,
    upstream="https://github.com/LMCache/LMCache/issues/4463",
    without="LMCache gives back wrong values",
    change=_change,
    only_with=("vllm", "0.26.0"),
    at_connector=True,
    is_required=True,
)
