"""When the frontend moves the requests of a dead worker to another one."""

from __future__ import annotations

from typing import Any

import pytest
from dynamoctl.config.load import load_spec
from dynamoctl.errors import SpecError
from dynamoctl.planner import migration

from tests.unit.hosts import plan

ETCD = {"discovery": "etcd", "etcd_endpoints": "http://10.0.0.1:2379"}
# The workers of the other hosts are unknown to this one.
HOSTS = {**ETCD, "advertise": "10.0.0.1"}


def limit(**fields: Any) -> str | None:
    """What the frontend's command line says."""
    argv = plan(engine="mocker", **fields).unit("frontend").argv
    return argv[argv.index("--migration-limit") + 1] if "--migration-limit" in argv else None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, "3", id="agg-one-worker"),
        pytest.param({"workers": 2}, "3", id="agg-two-workers"),
        pytest.param({"mode": "disagg"}, "3", id="disagg-one-of-each"),
        pytest.param({"mode": "disagg", "decode": 2}, "3", id="two-decode"),
        pytest.param({"mode": "disagg", "prefill": 2}, "3", id="two-prefill"),
        pytest.param({"mode": "disagg", "decode": 4, "prefill": 4}, "3", id="four-of-each"),
        pytest.param(ETCD, "3", id="etcd-others-may-have-workers"),
        pytest.param({**HOSTS, "roles": "frontend"}, "3", id="workers-elsewhere"),
        pytest.param({**HOSTS, "mode": "disagg", "roles": "frontend,decode"}, "3", id="prefill-elsewhere"),
        pytest.param({"workers": 2, "migration_limit": 1}, "1", id="a-limit-of-the-user"),
        pytest.param({"workers": 2, "migration_limit": 0}, "0", id="off"),
        pytest.param({"migration_limit": 5}, "5", id="a-limit-with-one-worker"),
        pytest.param({"workers": 2, "env": {"DYN_MIGRATION_LIMIT": "1"}}, None, id="dynamos-own-variable"),
        pytest.param(
            {"env": {"DYN_MIGRATION_LIMIT": "1"}, "migration_limit": 2},
            "2",
            id="our-key-over-dynamos-variable",
        ),
    ],
)
def test_the_limit_is_the_default_unless_it_is_given(fields: dict[str, Any], expected: str | None) -> None:
    assert limit(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"migration_limit": 0}, False),
        ({"workers": 2}, True),
        ({"workers": 2, "migration_limit": 0}, False),
        ({"env": {"DYN_MIGRATION_LIMIT": "1"}}, True),
        ({"workers": 2, "env": {"DYN_MIGRATION_LIMIT": "0"}}, False),
        ({"env": {"DYN_MIGRATION_LIMIT": "1"}, "migration_limit": 0}, False),
    ],
)
def test_whether_requests_are_moved(fields: dict[str, Any], expected: bool) -> None:
    assert migration.is_on(plan(engine="mocker", **fields).unit("frontend")) is expected


@pytest.mark.parametrize("wrong", [-1, 101, True, 1.5, "3"])
def test_a_limit_is_a_small_number(wrong: object) -> None:
    with pytest.raises(SpecError, match="--migration-limit: "):
        load_spec({"migration_limit": wrong}, {})
