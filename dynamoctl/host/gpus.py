"""GPUs by NVML (nvidia-ml-py); no parsing of nvidia-smi."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dynamoctl.facts import Gpu

_MIB = 1024 * 1024


@contextmanager
def session() -> Iterator[Any]:
    """NVML, initialised; None where there is no driver.

    NVML counts its users: within one session, the next ones cost nothing.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _memory(nvml: Any, handle: Any) -> Any:
    """Bytes in all and in use; the first version counts as used what the driver keeps for itself."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    except nvml.NVMLError:  # a driver before 510
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def list_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the host, whatever CUDA_VISIBLE_DEVICES says; empty without a driver."""
    with session() as nvml:
        if nvml is None:
            return ()
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            found.append(
                Gpu(
                    index,
                    _text(nvml.nvmlDeviceGetUUID(handle)),
                    _text(nvml.nvmlDeviceGetName(handle)),
                    _memory(nvml, handle).total // _MIB,
                )
            )
        return tuple(found)


def memory_by_process() -> dict[int, dict[int, int]]:
    """GPU index -> pid -> MiB held there. A container may hide pids; then there are none here."""
    with session() as nvml:
        if nvml is None:
            return {}
        held: dict[int, dict[int, int]] = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            try:
                running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except nvml.NVMLError:
                continue
            held[index] = {one.pid: (one.usedGpuMemory or 0) // _MIB for one in running}
        return held


def memory_used() -> dict[int, int]:
    """GPU index -> MiB in use by anybody."""
    with session() as nvml:
        if nvml is None:
            return {}
        return {
            index: _memory(nvml, nvml.nvmlDeviceGetHandleByIndex(index)).used // _MIB
            for index in range(nvml.nvmlDeviceGetCount())
        }


def memory_free() -> dict[int, int]:
    """GPU index -> MiB that a process can take."""
    with session() as nvml:
        if nvml is None:
            return {}
        return {
            index: _memory(nvml, nvml.nvmlDeviceGetHandleByIndex(index)).free // _MIB
            for index in range(nvml.nvmlDeviceGetCount())
        }


def number() -> int:
    """How many GPUs the host has, whatever CUDA_VISIBLE_DEVICES says."""
    with session() as nvml:
        return 0 if nvml is None else int(nvml.nvmlDeviceGetCount())


def utilization() -> dict[int, float]:
    """GPU index -> the share of NVML's last sample (up to a second) in which a kernel ran, 0 to 1.

    A GPU that does not say (in MIG mode) is missing.
    """
    with session() as nvml:
        if nvml is None:
            return {}
        found = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                rates = nvml.nvmlDeviceGetUtilizationRates(nvml.nvmlDeviceGetHandleByIndex(index))
            except nvml.NVMLError:
                continue
            found[index] = rates.gpu / 100
        return found


def driver() -> tuple[str, int | None]:
    """The driver's version, and CUDA's (13000 for 13.0); empty and None without one."""
    with session() as nvml:
        if nvml is None:
            return "", None
        return _text(nvml.nvmlSystemGetDriverVersion()), int(nvml.nvmlSystemGetCudaDriverVersion_v2())
