"""The memory that control groups leave: fake trees of both versions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from dynamoctl.host import cgroups, facts
from dynamoctl.host.cgroups import CgroupMemory

GIB = 1024**3
# What version 1 writes where there is no limit, with pages of 4 and of 64 KiB.
NO_LIMIT = (9223372036854771712, 9223372036854710272)


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def member_of(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "membership"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def v2(group: Path, limit: int | str, used: int = 0, cache: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - cache}\nfile {cache}\ninactive_file {cache}\n")


def v1(group: Path, limit: int, used: int = 0, cache: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"cache 5\ninactive_file 7\ntotal_inactive_file {cache}\n")


def test_what_is_used_in_a_group_is_not_available_but_for_file_cache(tmp_path: Path, mount: Path) -> None:
    v2(mount / "app", 8 * GIB, used=5 * GIB, cache=2 * GIB)
    assert cgroups.memory(mount, member_of(tmp_path, "0::/app")) == CgroupMemory(8 * GIB, 5 * GIB)


def test_version_1_counts_its_own_files(tmp_path: Path, mount: Path) -> None:
    v1(mount / "memory" / "app", 8 * GIB, used=5 * GIB, cache=2 * GIB)
    lines = ("12:cpu,cpuacct:/other", "4:memory:/app", "1:name=systemd:/app", "0::/app")
    assert cgroups.memory(mount, member_of(tmp_path, *lines)) == CgroupMemory(8 * GIB, 5 * GIB)


@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_all_ancestors_count(tmp_path: Path, mount: Path, version: int) -> None:
    """The smallest limit and the least that is available may be those of two groups."""
    write, line, root = (v1, "4:memory:", mount / "memory") if version == 1 else (v2, "0::", mount)
    write(root, 64 * GIB, used=1 * GIB)
    write(root / "slice", 16 * GIB, used=15 * GIB)
    write(root / "slice" / "app", 4 * GIB, used=1 * GIB)
    membership = member_of(tmp_path, f"{line}/slice/app")
    assert cgroups.memory(root if version == 2 else mount, membership) == CgroupMemory(4 * GIB, 1 * GIB)


def test_groups_beside_it_do_not_count(tmp_path: Path, mount: Path) -> None:
    v2(mount / "other", 1 * GIB)
    v2(mount / "app", 4 * GIB)
    assert cgroups.memory(mount, member_of(tmp_path, "0::/app")) == CgroupMemory(4 * GIB, 4 * GIB)


def test_without_a_limit_there_is_nothing_to_say(tmp_path: Path, mount: Path) -> None:
    v2(mount / "app", "max", used=3 * GIB)
    for number, no_limit in enumerate(NO_LIMIT):
        v1(mount / "memory" / f"app{number}", no_limit, used=3 * GIB)
        assert cgroups.memory(mount, member_of(tmp_path, f"4:memory:/app{number}", "0::/app")) is None


def test_an_unlimited_group_is_limited_by_its_parent(tmp_path: Path, mount: Path) -> None:
    v2(mount / "slice", 8 * GIB, used=2 * GIB)
    v2(mount / "slice" / "app", "max", used=1 * GIB)
    assert cgroups.memory(mount, member_of(tmp_path, "0::/slice/app")) == CgroupMemory(8 * GIB, 6 * GIB)


@pytest.mark.parametrize("path", ["/", "/docker/3f2a", "/../../other.slice"])
def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path, mount: Path, path: str) -> None:
    v2(mount, 8 * GIB, used=1 * GIB)
    assert cgroups.memory(mount, member_of(tmp_path, f"0::{path}")) == CgroupMemory(8 * GIB, 7 * GIB)


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path, mount: Path) -> None:
    v2(mount, 2 * GIB, used=3 * GIB)
    assert cgroups.memory(mount, member_of(tmp_path, "0::/")) == CgroupMemory(2 * GIB, 0)


def test_what_cannot_be_read_is_left_out(tmp_path: Path, mount: Path) -> None:
    """A folder in a file's place: root may read any file."""
    membership = member_of(tmp_path, "0::/app")
    assert cgroups.memory(mount, tmp_path / "missing") is None
    assert cgroups.memory(mount, membership) is None
    v2(mount / "app", 8 * GIB, used=5 * GIB, cache=2 * GIB)
    (mount / "app" / "memory.stat").unlink()
    (mount / "app" / "memory.stat").mkdir()
    assert cgroups.memory(mount, membership) == CgroupMemory(8 * GIB, 3 * GIB)
    (mount / "app" / "memory.current").unlink()
    (mount / "app" / "memory.current").mkdir()
    assert cgroups.memory(mount, membership) == CgroupMemory(8 * GIB, 8 * GIB)
    (mount / "app" / "memory.max").unlink()
    (mount / "app" / "memory.max").mkdir()
    assert cgroups.memory(mount, membership) is None


@pytest.mark.parametrize("content", ["", "nonsense\n", "0:\n", "0::\n", "inactive_file\n"])
def test_nonsense_is_left_out(tmp_path: Path, mount: Path, content: str) -> None:
    v2(mount, 8 * GIB, used=1 * GIB)
    (mount / "memory.stat").write_text(content)
    assert cgroups.memory(mount, member_of(tmp_path, "0::/")) == CgroupMemory(8 * GIB, 7 * GIB)
    assert cgroups.memory(mount / "none", member_of(tmp_path, content)) is None


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (None, (64.0, 40.0)),
        (CgroupMemory(8 * GIB, 3 * GIB), (8.0, 3.0)),
        (CgroupMemory(128 * GIB, 100 * GIB), (64.0, 40.0)),
        (CgroupMemory(60 * GIB, 50 * GIB), (60.0, 40.0)),
    ],
)
def test_the_host_and_its_groups_both_bound_what_is_available(
    monkeypatch: pytest.MonkeyPatch, cgroup: CgroupMemory | None, expected: tuple[float, float]
) -> None:
    host = SimpleNamespace(total=64 * GIB, available=40 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(cgroups, "memory", lambda: cgroup)
    assert facts.memory_gib() == expected
