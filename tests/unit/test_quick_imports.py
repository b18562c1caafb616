"""What is left out when large packages are imported."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from dynamoctl.processes import worker
from dynamoctl.processes.quick_imports import (
    only_named_adapters,
    without_building_models,
    without_collector,
)
from pydantic import BaseModel, ValidationError

from tests.unit.fresh import last_line

REAL = """
import sys
from lmcache.v1.distributed.l2_adapters import config, factory
from dynamoctl.processes import worker
from dynamoctl.processes.quick_imports import only_named_adapters
only_named_adapters(factory, ["--l2-adapter", '{"type":"fs","base_path":"/somewhere"}'])
shown = config.get_registered_l2_adapter_types()
found = config.get_l2_adapter_config_class("fs").__name__
print(shown, found, any("bigtable" in name for name in sys.modules), "transformers" in sys.modules)
"""


def test_the_server_imports_the_adapters_of_its_arguments_alone() -> None:
    """With the real LMCache: it would import all of them to print their names."""
    assert last_line(REAL) == "[] FSL2AdapterConfig False False"


def test_the_adapters_that_are_named_come_first() -> None:
    pending = ["of.bigtable_l2_adapter", "of.fs_l2_adapter", "of.fs_native_l2_adapter", "of.resp_l2_adapter"]
    order = [pending[1], pending[3], pending[0], pending[2]]
    factory = SimpleNamespace(_PENDING_MODULES=[*pending], load_all_adapters=pending.clear)
    only_named_adapters(factory, ["server", "--l2-adapter", '{"type":"resp"}', '--l2-adapter={"type":"fs"}'])
    assert order == factory._PENDING_MODULES
    factory.load_all_adapters()
    assert pending


@pytest.mark.parametrize("arguments", [[], ["--l2-adapter"], ["--l2-adapter", "{"], ["--l2-adapter", "3"]])
def test_what_is_no_adapter_is_left_to_lmcache(arguments: list[str]) -> None:
    factory = SimpleNamespace(_PENDING_MODULES=["b", "a"], load_all_adapters=None)
    only_named_adapters(factory, arguments)
    assert factory._PENDING_MODULES == ["b", "a"]


def test_another_version_is_left_as_it_is() -> None:
    factory = SimpleNamespace(load_all_adapters=len)
    only_named_adapters(factory, ["--l2-adapter", '{"type":"fs"}'])
    assert factory.load_all_adapters is len


def test_the_collector_is_on_again_after_an_error() -> None:
    def fail() -> None:
        with without_collector():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert gc.isenabled()
    gc.unfreeze()


def test_a_model_is_built_when_it_is_used() -> None:
    with without_building_models():

        class Later(BaseModel):
            number: int

    class AtOnce(BaseModel):
        number: int

    assert (Later.__pydantic_complete__, AtOnce.__pydantic_complete__) == (False, True)
    assert Later.model_validate({"number": "1"}).model_dump() == {"number": 1}
    assert Later.__pydantic_complete__
    with pytest.raises(ValidationError):
        Later.model_validate({"number": "one"})


def test_a_worker_builds_no_model_before_it_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "from pydantic import BaseModel\nclass Request(BaseModel):\n    number: int\n"
    (tmp_path / "module_of_requests.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "_MAIN", ("module_of_requests",))
    monkeypatch.setattr(worker, "_OF_DEVICE", {})
    worker.preload([])
    request = sys.modules["module_of_requests"].Request
    assert not request.__pydantic_complete__
    assert request(number=1).number == 1
    assert "defer_build" not in BaseModel.model_config
