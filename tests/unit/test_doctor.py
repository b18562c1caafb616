"""What `up` would stumble over: the findings that need no real host."""

from __future__ import annotations

import pytest
from dynamoctl import doctor

from tests.unit.hosts import plan


def plugin_findings(**fields: object) -> list[str]:
    return [finding.mend for finding in doctor._plugin(plan(**fields))]


def test_a_cpu_deployment_with_transfers_needs_the_plugin_that_is_installed_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    assert plugin_findings(mode="disagg") == []


@pytest.mark.parametrize(("allowed", "warned"), [("", True), ("other", True), ("other,dynamoctl", False)])
def test_vllm_must_be_allowed_to_load_it(monkeypatch: pytest.MonkeyPatch, allowed: str, warned: bool) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", allowed)
    for mode in ("disagg", "agg"):  # NIXL between CPU workers; LMCache's server
        assert [("VLLM_PLUGINS" in mend) for mend in plugin_findings(mode=mode)] == [True] * warned
    assert plugin_findings(engine="mocker") == []


def test_without_it_lmcache_in_process_would_give_back_wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    (finding,) = doctor._plugin(plan(1, mode="agg", gpus=(0,)))
    assert finding.level == "error"
    assert "LMCache gives back wrong values" in finding.what
    assert doctor._plugin(plan(1, mode="agg", gpus=(0,), lmcache={"enabled": False})) == []


def test_a_dynamoctl_that_is_not_installed_as_a_package_offers_no_plugin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda **_: ())
    assert ["bootstrap" in mend for mend in plugin_findings(mode="disagg")] == [True]
