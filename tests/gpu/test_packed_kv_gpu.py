"""LMCache's compiled kernel copies a packed KV cache by rows as its torch one does."""

from __future__ import annotations

import pytest

from tests.unit import test_packed_kv as on_the_cpu

pytestmark = [pytest.mark.gpu, *on_the_cpu.pytestmark]


@pytest.mark.parametrize("stored", ["NHD", "HND"])
@pytest.mark.parametrize("loaded", ["NHD", "HND"])
def test_what_is_stored_comes_back_at_other_slots_whatever_the_layouts(stored: str, loaded: str) -> None:
    on_the_cpu.assert_what_is_stored_comes_back_at_other_slots(stored, loaded, "cuda")
