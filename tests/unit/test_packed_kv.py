"""LMCache's copies of a packed KV cache, with LMCache's own torch kernel for the rows, on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
from dynamoctl.patches import packed_kv
from dynamoctl.patches.base import installed_version

from tests.unit.fresh import last_line

pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(
        installed_version("lmcache") not in packed_kv.PATCH.versions, reason="for another version of LMCache"
    ),
    # What LMCache imports warns of itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lmcache"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:opentelemetry"),
]

LAYERS, BLOCKS, BLOCK, HEADS, HEAD = 3, 7, 16, 4, 8
SLOTS = [37, 38, 5, 111, 64, 65, 66, 0]


class Cache:
    """A KV cache as vLLM 0.26 lays it out, K and V of a head side by side."""

    def __init__(self, layout: str, *, zero: bool = False, device: str = "cpu") -> None:
        import torch

        middle = (HEADS, BLOCK) if layout == "HND" else (BLOCK, HEADS)
        make = torch.zeros if zero else torch.rand
        self.hnd = layout == "HND"
        self.layers = [make(BLOCKS, *middle, 2 * HEAD, device=device) for _ in range(LAYERS)]

    def rows(self) -> list[Any]:
        """What a kernel sees behind a layer's pointer: rows of one head (HND) or of all (NHD)."""
        return [layer.view(-1, 2 * HEAD * (1 if self.hnd else HEADS)) for layer in self.layers]

    def token(self, layer: int, slot: int) -> Any:
        """[heads, 2 x head size]"""
        block, at = divmod(slot, BLOCK)
        return self.layers[layer][block, :, at] if self.hnd else self.layers[layer][block, at]


def copy(cache: Cache, buffer: Any, slots: list[int], *, store: bool, skip: int = 0) -> None:
    """What LMCache asks its kernel for in process: its torch one, or on a GPU its compiled one."""
    import torch
    from lmcache.v1.platform import ops_types, torch_ops

    layouts, direction = ops_types.EngineKVFormat, ops_types.TransferDirection
    kernel, layers = torch_ops.multi_layer_kv_transfer, cache.rows()
    device = cache.layers[0].device
    if device.type == "cuda":
        import lmcache.c_ops as compiled

        layouts, direction = compiled.EngineKVFormat, compiled.TransferDirection
        kernel, layers = compiled.multi_layer_kv_transfer, pointers(cache)
    packed_kv.around(kernel, layouts)(
        buffer,
        layers,
        torch.tensor(slots, device=device),
        device,
        BLOCKS * BLOCK,
        direction.D2H if store else direction.H2D,
        layouts.NL_X_NB_NH_BS_CS if cache.hnd else layouts.NL_X_NB_BS_NH_CS,
        block_size=BLOCK,
        head_size=2 * HEAD,
        skip_prefix_n_tokens=skip,
    )


def pointers(cache: Cache) -> Any:
    """Addresses of the layers, as the compiled kernel takes them: int64, [layers], on the GPU."""
    import torch

    return torch.tensor([layer.data_ptr() for layer in cache.layers], device=cache.layers[0].device)


def empty_buffer(tokens: int, *, pinned: bool = False) -> Any:
    import torch

    return torch.zeros(2, LAYERS, tokens, HEADS * HEAD, pin_memory=pinned)


def assert_what_is_stored_comes_back_at_other_slots(stored: str, loaded: str, device: str = "cpu") -> None:
    import torch

    source, target = Cache(stored, device=device), Cache(loaded, zero=True, device=device)
    buffer = empty_buffer(len(SLOTS), pinned=device != "cpu")
    places = [50 + i for i in range(len(SLOTS))]
    copy(source, buffer, SLOTS, store=True)
    copy(target, buffer, places, store=False)
    assert buffer.all()
    for layer in range(LAYERS):
        for slot, place in zip(SLOTS, places, strict=True):
            assert torch.equal(target.token(layer, place), source.token(layer, slot))
    others = set(range(BLOCKS * BLOCK)) - set(places)
    assert not any(target.token(layer, slot).any() for layer in range(LAYERS) for slot in others)


@pytest.mark.parametrize("stored", ["NHD", "HND"])
@pytest.mark.parametrize("loaded", ["NHD", "HND"])
def test_what_is_stored_comes_back_at_other_slots_whatever_the_layouts(stored: str, loaded: str) -> None:
    assert_what_is_stored_comes_back_at_other_slots(stored, loaded)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_the_engines_own_prefix_and_negative_slots_are_left_alone(layout: str) -> None:
    import torch

    buffer, source, target = empty_buffer(4), Cache(layout), Cache(layout, zero=True)
    copy(source, buffer, [16, 17, 18, 19], store=True)
    copy(target, buffer, [32, 33, -1, 35], store=False, skip=1)
    assert not target.token(0, 32).any()
    assert torch.equal(target.token(0, 33), source.token(0, 17))
    assert not target.token(0, 34).any()
    assert torch.equal(target.token(2, 35), source.token(2, 19))


def test_other_layouts_are_copied_as_before() -> None:
    from lmcache.v1.platform import ops_types

    layouts = ops_types.EngineKVFormat
    seen: list[tuple[Any, ...]] = []

    def plain(*words: Any, **named: Any) -> None:
        seen.append((*words, named))

    words = ("buffer", "layers", "slots", "device", 5, "direction", layouts.NL_X_TWO_NB_BS_NH_HS)
    packed_kv.around(plain, layouts)(*words, block_size=16, head_size=8, skip_prefix_n_tokens=2)
    assert seen == [(*words, {"block_size": 16, "head_size": 8, "skip_prefix_n_tokens": 2})]


def test_the_plugin_puts_it_before_lmcaches_own_once() -> None:
    """In a process of its own: LMCache keeps one set of functions for a process."""
    script = """
from types import SimpleNamespace
from dynamoctl.patches import plugin
from vllm.distributed.kv_transfer.kv_connector import factory
class Factory:
    @classmethod
    def create_connector(cls):
        pass
factory.KVConnectorFactory = Factory
plugin.register()
plugin.register()
Factory.create_connector()
import lmcache.c_ops
once = lmcache.c_ops.multi_layer_kv_transfer
Factory.create_connector()
assert lmcache.c_ops.multi_layer_kv_transfer is once
print(once.__module__)
"""
    assert last_line(script, **{packed_kv.PATCH.variable: "1"}) == "dynamoctl.patches.packed_kv"
