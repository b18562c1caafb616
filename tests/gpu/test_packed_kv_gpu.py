"""LMCache's compiled kernel copies a packed KV cache by rows as its torch one does."""

from __future__ import annotations

import pytest

from tests.unit.test_packed_kv import assert_what_is_stored_comes_back_at_other_slots

pytestmark = [pytest.mark.gpu, pytest.mark.engine]


@pytest.mark.parametrize("stored", ["NHD", "HND"])
@pytest.mark.parametrize("loaded", ["NHD", "HND"])
def test_what_is_stored_comes_back_at_other_slots_whatever_the_layouts(stored: str, loaded: str) -> None:
    assert_what_is_stored_comes_back_at_other_slots(stored, loaded, "cuda")
