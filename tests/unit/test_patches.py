"""What holds for every patch: it is applied once and says so, or the process ends with what is wrong."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from dynamoctl import patches
from dynamoctl.patches import base, engine_heartbeat, packed_kv, plugin, wake_up
from dynamoctl.patches.base import Patch, PatchError
from dynamoctl.tested_versions import INSTALLED, SETS

from tests.unit.fresh import last_line_with_vllm

GROUP = "vllm.general_plugins"
PATCHED = ("vllm", "lmcache", "nixl")
NEWEST = wake_up.PATCH.versions[0]


def value_of(patch: Patch) -> str:
    return patch.values[0] if patch.values else "20"


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is logged yet, and what a patch sets in the environment is taken away afterwards."""
    monkeypatch.setattr(base, "_logged", set())
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions that the patches were tested with are installed."""
    monkeypatch.setattr(base, "installed_version", lambda package: INSTALLED[package])


class Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Every module of the patched packages is there, with nothing in it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in PATCHED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        pass


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what is imported of the patched packages."""
    for name in list(sys.modules):
        if name.partition(".")[0] in PATCHED:
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> Any:
    hide(monkeypatch)
    monkeypatch.setattr(sys, "meta_path", [Empty(), *sys.meta_path])
    yield
    for name in list(sys.modules):
        if name.partition(".")[0] in PATCHED:
            del sys.modules[name]


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch)
    for name in PATCHED:
        monkeypatch.setitem(sys.modules, name, None)


# ---- the values -----------------------------------------------------------------------------


def test_each_patch_has_a_name_of_its_own_and_is_for_an_installed_version() -> None:
    names = [patch.name for patch in patches.ALL]
    assert len(set(names)) == len(names)
    for patch in patches.ALL:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", patch.name)
        assert patch.variable.startswith("DYNAMOCTL_")
        sets = [tested for tested in SETS if patch.is_tested_with(tested.versions)]
        assert patch.versions == tuple(tested.versions[patch.package] for tested in sets) != ()
        assert patch.without
        assert not patch.without.endswith(".")
        assert re.fullmatch(
            r"[a-z0-9-]+==[0-9.]+:\S+\.py:\S+|https://github\.com/\S+/issues/\d+", patch.upstream
        )


def test_answers_are_wrong_without_one_of_them() -> None:
    assert [patch.name for patch in patches.ALL if patch.is_required] == ["packed-kv"]


def test_each_patch_has_a_variable_of_its_own() -> None:
    assert len({patch.variable for patch in patches.ALL}) == len(patches.ALL)


@pytest.mark.parametrize("patch", patches.ALL, ids=lambda patch: patch.name)
def test_its_variable_switches_it_on_and_an_empty_one_does_not(patch: Patch) -> None:
    assert patch in patches.switched_on({patch.variable: value_of(patch)})
    assert patch not in patches.switched_on({patch.variable: ""})
    assert patch not in patches.switched_on({})


def test_the_installed_distribution_offers_the_plugin_to_vllm() -> None:
    offered = importlib.metadata.distribution("dynamoctl").entry_points.select(group=GROUP)
    assert [entry.load() for entry in offered] == [plugin.register]


def test_the_values_are_read_without_what_they_patch() -> None:
    script = (
        "import sys, dynamoctl.patches.plugin\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        f"print(roots & {{'asyncio', 'multiprocessing', *{PATCHED}}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---- applied ----------------------------------------------------------------------------------


def small(**fields: Any) -> tuple[Patch, list[str]]:
    """A patch that keeps the values with which it is applied."""
    seen: list[str] = []
    made = Patch(
        name="small", variable="DYNAMOCTL_SMALL", package="vllm", versions=(NEWEST,), upstream="",
        without="it is larger", change=seen.append,
    )  # fmt: skip
    return replace(made, **fields), seen


def register(monkeypatch: pytest.MonkeyPatch, patch: Patch, environ: Mapping[str, str]) -> None:
    monkeypatch.setattr(patches, "ALL", (patch,))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    plugin.register()


@pytest.mark.usefixtures("tested")
def test_it_says_so_once_in_a_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch, seen = small()
    for _ in range(2):
        register(monkeypatch, patch, {"DYNAMOCTL_SMALL": "1"})
    assert seen == ["1", "1"]
    assert capsys.readouterr().err == f"dynamoctl: patch small applied (vllm {NEWEST})\n"


def test_a_user_who_asks_for_it_with_another_version_gets_it_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch, seen = small()
    monkeypatch.setattr(base, "installed_version", lambda _: "0.99.0")
    register(monkeypatch, patch, {"DYNAMOCTL_SMALL": "1"})
    assert seen == ["1"]
    said = f"dynamoctl: patch small applied (vllm 0.99.0, tested with {NEWEST})\n"
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("tested")
def test_without_its_variable_nothing_is_done_or_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch, seen = small()
    register(monkeypatch, patch, {"DYNAMOCTL_SMALL": ""})
    assert (seen, capsys.readouterr().err) == ([], "")


@pytest.mark.usefixtures("tested")
@pytest.mark.parametrize(("name", "applied"), [("EngineCore", ["1"]), ("EngineCore_DP0", ["1"]), ("W", [])])
def test_a_patch_of_one_kind_of_process_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, applied: list[str]
) -> None:
    patch, seen = small(process="EngineCore")
    monkeypatch.setattr(multiprocessing.current_process(), "_name", name)
    register(monkeypatch, patch, {"DYNAMOCTL_SMALL": "1"})
    assert seen == applied


def test_what_the_supervisor_asks_for_is_left_out_with_another_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch, seen = small(is_set_by_supervisor=True)
    monkeypatch.setattr(base, "installed_version", lambda _: "0.99.0")
    register(monkeypatch, patch, {"DYNAMOCTL_SMALL": "1"})
    assert seen == []
    assert capsys.readouterr().err == (
        "dynamoctl: patch small left out: it was not tested with vllm 0.99.0; without it it is larger\n"
    )
    monkeypatch.setattr(base, "installed_version", lambda _: f"{NEWEST}+cpu")
    register(monkeypatch, patch, {"DYNAMOCTL_SMALL": "1"})
    assert seen == ["1"]


def test_only_the_heartbeat_is_asked_for_by_the_supervisor() -> None:
    assert [patch for patch in patches.ALL if patch.is_set_by_supervisor] == [engine_heartbeat.PATCH]


# ---- not applied ------------------------------------------------------------------------------


def failure(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the process ends in which the patch cannot be applied."""
    monkeypatch.setattr(multiprocessing.current_process(), "_name", patch.process or "MainProcess")
    with pytest.raises(PatchError) as ended:
        register(monkeypatch, patch, {patch.variable: value_of(patch)})
    return str(ended.value)


@pytest.mark.usefixtures("tested", "missing")
@pytest.mark.parametrize("patch", patches.ALL, ids=lambda patch: patch.name)
def test_a_package_that_is_not_there_ends_the_process(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"patch {patch.name} cannot be applied to {patch.package}" in failure(patch, monkeypatch)


@pytest.mark.usefixtures("tested", "empty")
@pytest.mark.parametrize("patch", patches.ALL, ids=lambda patch: patch.name)
def test_a_target_that_is_not_there_ends_the_process(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    said = failure(patch, monkeypatch)
    assert f"patch {patch.name} cannot be applied to {patch.package} {INSTALLED[patch.package]}: " in said
    assert "has no attribute" in said
    assert f"Install {patch.package} {' or '.join(patch.versions)}" in said
    assert (f"set {patch.variable}= (empty) in [env]" in said) is not patch.is_required
    assert patch.without in said
    assert all(len(line) <= 300 for line in said.splitlines())


@pytest.mark.usefixtures("tested", "empty")
@pytest.mark.parametrize(
    "patch", [patch for patch in patches.ALL if patch.at_connector], ids=lambda patch: patch.name
)
def test_a_target_that_is_not_there_ends_it_when_the_connector_is_made(patch: Patch) -> None:
    factory: Any = SimpleNamespace(create_connector=lambda: "connector")
    base.before_connectors(factory, patch, "1")
    with pytest.raises(PatchError, match=f"patch {patch.name} cannot be applied to {patch.package}"):
        factory.create_connector()


def test_one_who_must_not_run_without_it_is_not_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "installed_version", lambda _: "0.5.9")
    assert str(packed_kv.PATCH._failure(AttributeError("gone"))) == (
        "patch packed-kv cannot be applied to lmcache 0.5.9: gone\n"
        "Install lmcache 0.5.3, with which it was tested. Do not run without it:"
        " LMCache gives back wrong values."
    )


def test_a_value_that_is_not_a_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("vllm.distributed.device_communicators")
    module.shm_broadcast = SimpleNamespace(SpinCondition=type("SpinCondition", (), {}))
    for name in ("vllm", "vllm.distributed"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (spin,) = (patch for patch in patches.ALL if patch.name == "spin")
    with pytest.raises(PatchError, match=r"patch spin .*'soon'"):
        spin.apply("soon")


@pytest.mark.packages
@pytest.mark.xdist_group("with vllm")
def test_each_process_of_the_installed_vllm_ends_with_it() -> None:
    """vLLM catches nothing that a plugin raises, in its main process, EngineCore and a Worker process."""
    script = """
from types import SimpleNamespace
from vllm import plugins
from vllm.distributed.device_communicators import shm_broadcast
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.core import EngineCore
from vllm.v1.worker.worker_base import WorkerWrapperBase

del shm_broadcast.SpinCondition.wait
core, worker = object.__new__(EngineCore), object.__new__(WorkerWrapperBase)
worker.rpc_rank = 0
config = SimpleNamespace(enable_trace_function_call_for_thread=lambda: None)
ended = []
for start in (
    lambda: AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()),
    lambda: core.__init__(None, None, False),
    lambda: worker.init_worker([{"vllm_config": config}]),
):
    plugins.plugins_loaded = False
    try:
        start()
    except RuntimeError as error:
        ended.append(f"{type(error).__module__}.{type(error).__name__} {str(error).splitlines()[0]}")
print(ended)
"""
    said = last_line_with_vllm(script, DYNAMOCTL_WAKE_UP="1")
    assert said.count("dynamoctl.patches.base.PatchError patch wake-up cannot be applied to vllm") == 3


@pytest.mark.packages
def test_a_process_that_ends_with_it_shows_what_to_do_and_an_exit_status(tmp_path: Any) -> None:
    script = """
import sys
sys.modules["vllm"] = None
from dynamoctl.patches.plugin import register
register()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, wake_up.PATCH.variable: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last: Sequence[str] = done.stderr.splitlines()[-2:]
    assert last[0].startswith("dynamoctl.patches.base.PatchError: patch wake-up cannot be applied to vllm")
    versions = " or ".join(wake_up.PATCH.versions)
    assert last[1].startswith(f"Install vllm {versions}, with which it was tested, or set DYNAMOCTL_WAKE_UP=")
