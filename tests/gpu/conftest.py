"""GPU tests share the real-process fixtures; without a GPU they are skipped, with the reason."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dynamoctl.host import gpus
from dynamoctl.host.facts import versions
from dynamoctl.host.processes import MARK, environment_of
from dynamoctl.planner.lmcache import keeps_in_process

from tests.e2e.conftest import Cli, chat, cli, model, pytest_runtest_makereport

__all__ = ["cli", "model", "pytest_runtest_makereport"]

# Which of LMCache's modes is the default: the older set of versions has it in the engine.
IN_PROCESS = keeps_in_process(versions(), "cuda")
in_process = pytest.mark.skipif(not IN_PROCESS, reason="LMCache in process is for the set 1.4")

# NVLink multicast takes memory of the whole NVLink fabric, and a killed engine can leave it held: on a host
# that others use too, that must not come from tests which kill engines.
NO_MULTICAST = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
}


@pytest.fixture(autouse=True, scope="module")
def _no_multicast() -> Iterator[None]:
    """Engines get the environment of `up`, which gets the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NO_MULTICAST.items():
            patch.setenv(name, value)
        yield


def visible() -> list[int]:
    """The GPUs that the tests may use, as NVML counts them: `--gpus 0` is the first."""
    there = [gpu.index for gpu in gpus.list_gpus()]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if named is None else [int(gpu) for gpu in named.split(",")]


def two_places() -> str:
    """`0,1`, or `0,0` where there is one GPU."""
    return "0,1" if len(visible()) > 1 else "0,0"


def is_cache_connector(config: dict[str, Any]) -> bool:
    """Whether it is LMCache's of the default mode; in process, nothing else may be in it."""
    if IN_PROCESS:
        return config == {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    return (config["kv_connector"], config["kv_role"]) == ("LMCacheMPConnector", "kv_both")


def unit_of(pid: int) -> str:
    """The unit of a process, which may have begun as a standby; empty for a process of something else."""
    return (environment_of(pid, MARK) or "").rpartition("/")[2].partition("~")[0]


def on_gpus(cli: Cli) -> dict[str, set[int]]:
    """Worker -> the GPUs on which its processes hold memory, as NVML says it; empty where it shows no pids.

    LMCache's server, which maps what they hold, is left out.
    """
    found: dict[str, set[int]] = {}
    ours = cli.ours()
    for gpu, held in gpus.memory_by_process().items():
        for pid in held.keys() & ours.keys():
            unit = unit_of(pid)
            if unit and unit != "lmcache":
                found.setdefault(unit, set()).add(gpu)
    return found


def engine_of(worker: int) -> int:
    """The process of a worker's that computes."""
    children = psutil.Process(worker).children(recursive=True)
    return next(one.pid for one in children if "EngineCore" in " ".join([one.name(), *one.cmdline()]))


def nvlink_kib(gpu: int) -> int | None:
    """KiB that a GPU has sent over NVLink, all links together; None where the driver does not count."""
    with gpus.session() as nvml:
        all_links = 2**32 - 1
        wanted = [(nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, all_links)]
        try:
            (value,) = nvml.nvmlDeviceGetFieldValues(nvml.nvmlDeviceGetHandleByIndex(gpu), wanted)
        except nvml.NVMLError:
            return None
        return int(value.value.ullVal) if value.nvmlReturn == 0 else None


def open_sockets(cli: Cli) -> list[str]:
    """`unit address:port` of each listening socket that other machines could reach."""
    found = set()
    for pid in cli.ours():
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(pid).net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and not one.laddr.ip.startswith("127."):
                    found.add(f"{unit_of(pid)} {one.laddr.ip}:{one.laddr.port}")
    return sorted(found)


def prove(cli: Cli) -> None:
    """LMCache gives back what it was given; the engines' own caches are empty then but for the proof."""
    shown = cli("cache", "check", "--json")
    print(shown.out, shown.err)
    assert shown.code == 0
    assert shown.json["check"]["prefix_cache_cleared"] is True
    assert shown.json["check"]["same_answer"] is True


def assert_the_whole_prompt_comes_back(cli: Cli, endpoint: str, model: str, prompt: str) -> None:
    """Nothing of it is left in a GPU's own prefix cache: the first tokens, too, are LMCache's."""
    first = chat(endpoint, model, prompt, max_tokens=16)
    prove(cli)
    assert chat(endpoint, model, prompt, max_tokens=16) == first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if gpus.list_gpus():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))
