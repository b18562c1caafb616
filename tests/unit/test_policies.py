"""The numbers of `dynamoctl.policies` are those that the documentation says and that each part acts on."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamoctl import policies
from dynamoctl.config.json_schema import meanings
from dynamoctl.config.lmcache_spec import LMCacheSpec
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.host import processes
from dynamoctl.operations import down
from dynamoctl.patches import engine_heartbeat
from dynamoctl.processes import cleanup
from dynamoctl.supervisor import lifecycle, registrations

DOCS = Path(__file__).parents[2] / "docs"
WORDS = {"two": 2, "three": 3, "four": 4, "ten": 10, "fifth": 1 / 5, "third": 1 / 3}
HANG_S, MINUTE_S = policies.HANG_TIMEOUT_S, 60

# What a page says, with each number in a group, and what these are.
SAID: list[tuple[str, str, tuple[float, ...]]] = [
    (
        "design.md",
        r"served for (\w+) minutes and this is its first restart in (\w+) minutes",
        (policies.SERVED_WELL_S / MINUTE_S, policies.RESTART_WINDOW_S / MINUTE_S),
    ),
    (
        "design.md",
        r"a pause of (\w+) s that doubles up to (\w+) s, with a random variation of up to a (\w+) in either",
        (policies.BACKOFF_FIRST_S, policies.BACKOFF_LONGEST_S, policies.BACKOFF_JITTER),
    ),
    (
        "design.md",
        r"After (\w+) restarts within (\w+) minutes",
        (policies.RESTART_LIMIT, policies.RESTART_WINDOW_S / MINUTE_S),
    ),
    (
        "design.md",
        r"a worker's main process\) \| (\w+) s \| (\w+) s \|",
        (policies.PROMPT_SILENT_S, policies.PROMPT_HUNG_S),
    ),
    (
        "design.md",
        r"had nothing to do when it was asked: .* \| (\w+) s \| (\w+) s \|",
        (policies.PROMPT_SILENT_S, policies.PROMPT_HUNG_S),
    ),
    (
        "design.md",
        r"in the middle of a step \| (\w+) s \| (\w+) s \(`--hang-timeout`; a (\w+) of it",
        (HANG_S * policies.BUSY_SILENT_SHARE, HANG_S, policies.BUSY_SILENT_SHARE),
    ),
    ("design.md", r"\(HTTP 503\) \| (\w+) s \| (\w+) s \(`--hang", (policies.PROMPT_SILENT_S, HANG_S)),
    ("design.md", r"does not list the model for (\w+) s", (policies.UNLISTED_S,)),
    ("design.md", r"has seen no registration of it for (\w+) s", (policies.UNREGISTERED_S,)),
    ("design.md", r"there has been no request for (\w+) s", (policies.QUIET_S,)),
    ("design.md", r"is still missing after (\w+) minutes", (policies.GPU_MEMORY_PATIENCE_S / MINUTE_S,)),
    (
        "design.md",
        r"`drain_s` plus (\w+) s for a unit that was ready, (\w+) s for a unit that was still",
        (policies.GRACE_READY_S, policies.GRACE_LOADING_S),
    ),
    ("design.md", r"Every (\w+) s the supervisor asks each unit", (lifecycle.WATCH_INTERVAL_S,)),
    ("design.md", r"sets the time (\w+) s ahead", (registrations.AHEAD_S,)),
    ("design.md", r"restores a removed file (\w+) s after its last touch", (registrations.PUT_BACK_S,)),
    ("design.md", r"pings its engine every (\w+) s", (engine_heartbeat.INTERVAL_S,)),
    (
        "reliability.md",
        r"restarted after (\w+) s, or (\w+) s if its engine may be computing",
        (policies.PROMPT_HUNG_S, HANG_S),
    ),
    (
        "reliability.md",
        r"a unit ended (\w+) times within (\w+) minutes",
        (policies.RESTART_LIMIT + 1, policies.RESTART_WINDOW_S / MINUTE_S),
    ),
    ("reliability.md", r"The default is (\w+)\. If a role has one worker only", (policies.MIGRATION_LIMIT,)),
    ("reliability.md", r"`--drain` seconds \(`drain_s`, (\w+) by default\)", (policies.DRAIN_S,)),
]


@pytest.mark.parametrize(("page", "pattern", "numbers"), SAID, ids=[pattern for _, pattern, _ in SAID])
def test_the_pages_say_the_numbers_that_hold(page: str, pattern: str, numbers: tuple[float, ...]) -> None:
    match = re.search(pattern, (DOCS / page).read_text(encoding="utf-8"))
    assert match, f"docs/{page} no longer says this; if it was reworded, follow it here"
    assert [WORDS[word] if word in WORDS else float(word) for word in match.groups()] == list(numbers)


def test_the_order_in_which_units_stop_is_the_one_that_the_page_says() -> None:
    names = {
        "prefill": "prefill", "decode": "decode", "agg": "aggregated workers", "cache": "the cache server",
        "frontend": "the frontend",
    }  # fmt: skip
    order = ", then ".join(" and ".join(names[role] for role in roles) for roles in policies.STOP_ORDER)
    assert f"in reverse order: {order}." in (DOCS / "design.md").read_text(encoding="utf-8")


def test_what_the_keys_mean_says_the_defaults_that_hold() -> None:
    said = meanings(LMCacheSpec)
    gib = policies.CACHE_CPU_GIB
    assert f"Unset: {gib['cuda']:g} on GPUs, {gib['cpu']:g} on a CPU" in said["cpu_gb"]
    said = meanings(DeploymentSpec)
    assert f"fails. Unset: {policies.MIGRATION_LIMIT}." in said["migration_limit"]
    assert f"{policies.GPU_MODEL} on GPUs, {policies.BUILTIN_MODEL} on a CPU" in said["model"]


@pytest.mark.parametrize(
    ("plan", "grace_s"),
    [
        ({"plan": {"drain_s": 40.0}}, 40.0 + policies.GRACE_READY_S),
        ({"plan": {}}, policies.DRAIN_S + policies.GRACE_READY_S),
        (None, policies.DRAIN_S + policies.GRACE_READY_S),
    ],
)
def test_without_a_supervisor_down_gives_a_unit_the_same_time(
    plan: dict[str, Any] | None, grace_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def wait(leader: object, grace_s: float, tick: object) -> bool:
        given.append(grace_s)
        return True

    monkeypatch.setattr(down, "members", lambda *_: [SimpleNamespace(pid=1)])
    monkeypatch.setattr(down, "is_running", lambda identity: True)
    monkeypatch.setattr(down, "members_of_each", lambda leaders: {})
    monkeypatch.setattr(processes, "files_of", lambda pids: {})
    for name in ("own_files", "remove_files"):
        monkeypatch.setattr(cleanup, name, lambda *_: {})
    for name in ("kill_members", "remove_folders"):
        monkeypatch.setattr(cleanup, name, lambda *_: [])
    monkeypatch.setattr(cleanup, "terminate_and_wait", wait)
    units = [SimpleNamespace(name=role, role=role, identity=1, gpus=()) for role in ("frontend", "agg")]
    state: Any = SimpleNamespace(start_id="start", units=units, state="stopped")
    folder: Any = SimpleNamespace(
        read_plan=lambda: plan,
        remove_targets=lambda: None,
        store=None,
        path=Path("/nowhere"),
        socket=SimpleNamespace(unlink=lambda: None),
    )
    assert down._sweep(folder, state, set(), set()) == []
    assert given == [grace_s, grace_s]
