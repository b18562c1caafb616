"""Which set of the engine's versions is installed here."""

from __future__ import annotations

import pytest
from dynamoctl.host.facts import versions
from dynamoctl.tested_versions import INSTALLED, engine_versions

# For what is compared with tables and code of the versions in pyproject.toml.
of_pyproject = pytest.mark.skipif(
    not engine_versions(versions(), "cpu").items() >= INSTALLED.items(),
    reason="for the versions in pyproject.toml",
)
