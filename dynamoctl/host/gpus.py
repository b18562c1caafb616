"""GPUs, read through NVML (nvidia-ml-py); nvidia-smi is not parsed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dynamoctl.facts import Gpu, MigInstance

_MIB = 1024 * 1024


@contextmanager
def session() -> Iterator[Any]:
    """Initialised NVML; None without a driver.

    NVML counts its initialisations, so that sessions within a session cost nothing.
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
    """NVML's memory information, in bytes. Version 1 counts memory that the driver reserves as used."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    except nvml.NVMLError:  # a driver before 510
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs of the host, regardless of CUDA_VISIBLE_DEVICES; empty without a driver.

    A GPU that has fallen off the bus is left out.
    """
    gpus: list[Gpu] = []
    with session() as nvml:
        for index in range(nvml.nvmlDeviceGetCount() if nvml is not None else 0):
            with suppress(nvml.NVMLError):
                gpus.append(_gpu(nvml, index))
    return tuple(gpus)


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    instances = _instances(nvml, handle)
    try:
        memory_mib = _memory(nvml, handle).total // _MIB
    except nvml.NVMLError:
        # In MIG mode only root may read the GPU's own memory.
        if instances is None:
            raise
        memory_mib = sum(instance.memory_mib for instance in instances)
    uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    return Gpu(index, _text(uuid), _text(name), memory_mib, instances)


def _instances(nvml: Any, handle: Any) -> tuple[MigInstance, ...] | None:
    """The MIG instances of a GPU that this process may use; None if it is not in MIG mode."""
    try:
        is_on = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # most GPUs have no MIG
        return None
    if not is_on:
        return None
    instances: list[MigInstance] = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError):  # numbers have gaps
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            ids = (
                nvml.nvmlDeviceGetGpuInstanceId(instance),
                nvml.nvmlDeviceGetComputeInstanceId(instance),
            )
            uuid, memory = _text(nvml.nvmlDeviceGetUUID(instance)), _memory(nvml, instance)
            instances.append(MigInstance(number, uuid, "/".join(map(str, ids)), memory.total // _MIB))
    return tuple(instances)


def _by_process(nvml: Any, handle: Any) -> dict[int, int]:
    """Pid -> MiB held."""
    running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return {process.pid: (process.usedGpuMemory or 0) // _MIB for process in running}


def memory_by_process() -> dict[int, dict[int, int]]:
    """GPU index -> pid -> MiB held. Empty for a GPU whose processes a container hides."""
    with session() as nvml:
        if nvml is None:
            return {}
        held: dict[int, dict[int, int]] = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            with suppress(nvml.NVMLError):
                held[index] = _by_process(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        return held


def memory_used() -> dict[int, int]:
    """GPU index -> MiB in use, by any process; without GPUs that cannot be read."""
    with session() as nvml:
        if nvml is None:
            return {}
        used: dict[int, int] = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            with suppress(nvml.NVMLError):
                used[index] = _memory(nvml, nvml.nvmlDeviceGetHandleByIndex(index)).used // _MIB
        return used


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU, in MiB.

    Attributes:
        free, used: memory that is free, and memory in use by any process.
        by_process: pid -> memory held, as far as NVML shows it.
    """

    gpu: Gpu
    free: int
    used: int
    by_process: Mapping[int, int]


def memory() -> list[GpuMemory]:
    """Memory of all GPUs that can be read.

    A GPU that has fallen off the bus is left out, and one in MIG mode, of which a worker has only a part.
    """
    import pynvml

    readable: list[GpuMemory] = []
    with session() as nvml, suppress(pynvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount() if nvml is not None else 0):
            with suppress(pynvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                gpu = _gpu(nvml, index)
                if gpu.instances is not None:
                    continue
                info = _memory(nvml, handle)
                by_process = _by_process(nvml, handle)
                readable.append(GpuMemory(gpu, info.free // _MIB, info.used // _MIB, by_process))
    return readable


def number() -> int:
    """Number of GPUs of the host, regardless of CUDA_VISIBLE_DEVICES."""
    with session() as nvml:
        return 0 if nvml is None else int(nvml.nvmlDeviceGetCount())


def utilization() -> dict[int, float]:
    """GPU index -> share of NVML's last sample period (up to 1 s) in which a kernel ran, 0 to 1.

    A GPU that does not report it (MIG mode) is missing.
    """
    with session() as nvml:
        if nvml is None:
            return {}
        shares = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                rates = nvml.nvmlDeviceGetUtilizationRates(nvml.nvmlDeviceGetHandleByIndex(index))
            except nvml.NVMLError:
                continue
            shares[index] = rates.gpu / 100
        return shares


def driver() -> tuple[str, int | None]:
    """The driver's version and its CUDA version (13000 for 13.0); empty and None without a driver."""
    with session() as nvml:
        if nvml is None:
            return "", None
        return _text(nvml.nvmlSystemGetDriverVersion()), int(nvml.nvmlSystemGetCudaDriverVersion_v2())
