"""Settings for the unit tests."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from dynamoctl.cli import output
from hypothesis import settings

from tests.unit.answer_schemas import validate

# Without a deadline for each example: a busy machine is no bug.
# Repeatable: a run does not fail for what an earlier one could have found. The profile `fuzz` looks on.
settings.register_profile("dynamoctl", deadline=None, derandomize=True, database=None)
# For test_fuzz.py alone: an hour.
settings.register_profile("fuzz", deadline=None, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dynamoctl"))


@pytest.fixture(autouse=True)
def _answers_fit_their_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command that a test runs in this process prints with --json fits its JSON Schema."""
    emit_json = output.emit_json

    def checked(body: dict[str, Any], indent: int | None = 2) -> None:
        validate(json.loads(json.dumps(body)))
        emit_json(body, indent)

    monkeypatch.setattr(output, "emit_json", checked)
