"""GPUs by NVML (nvidia-ml-py); no parsing of nvidia-smi."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
        return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index,
        _text(nvml.nvmlDeviceGetUUID(handle)),
        _text(nvml.nvmlDeviceGetName(handle)),
        _memory(nvml, handle).total // _MIB,
    )


def _by_process(nvml: Any, handle: Any) -> dict[int, int]:
    """Pid -> MiB held."""
    running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return {one.pid: (one.usedGpuMemory or 0) // _MIB for one in running}


def memory_by_process() -> dict[int, dict[int, int]]:
    """GPU index -> pid -> MiB held there. A container may hide pids; then there are none here."""
    with session() as nvml:
        if nvml is None:
            return {}
        held: dict[int, dict[int, int]] = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            with suppress(nvml.NVMLError):
                held[index] = _by_process(nvml, handle)
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


@dataclass(frozen=True)
class GpuMemory:
    """What is free and in use on one GPU, MiB; by_process: pid -> what it holds, as far as NVML shows it."""

    gpu: Gpu
    free: int
    used: int
    by_process: Mapping[int, int]


def memory() -> list[GpuMemory]:
    """Every GPU that can be read now. One that has fallen off the bus cannot, and is left out."""
    import pynvml

    found: list[GpuMemory] = []
    with session() as nvml, suppress(pynvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount() if nvml is not None else 0):
            with suppress(pynvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                now = _memory(nvml, handle)
                found.append(
                    GpuMemory(
                        _gpu(nvml, index), now.free // _MIB, now.used // _MIB, _by_process(nvml, handle)
                    )
                )
    return found


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
