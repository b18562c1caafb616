"""Settings for the unit tests."""

from __future__ import annotations

from hypothesis import settings

# Without a deadline for each example: a busy machine is no bug.
settings.register_profile("dynamoctl", deadline=None)
settings.load_profile("dynamoctl")
