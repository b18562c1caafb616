"""What the events of a stream say of an error."""

from __future__ import annotations

from typing import Any

import pytest
from dynamoctl.monitoring.events import error_in


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"error": {"message": "gone", "code": 500}}, "gone"),
        ({"error": {"code": 500}}, "{'code': 500}"),
        ({"error": "gone"}, "gone"),
        ({"error": None, "choices": []}, ""),
        ({"choices": [{"text": "error"}]}, ""),
        ({}, ""),
    ],
)
def test_an_error_is_told_in_whatever_form_it_comes(event: dict[str, Any], said: str) -> None:
    assert error_in(event) == said
