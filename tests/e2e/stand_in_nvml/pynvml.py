"""NVML of a host with two GPUs, in a process with this folder on its PYTHONPATH.

The file STAND_IN_NVML holds a JSON object: GPU -> MiB in use, with `holder`, a pid, as long as whose process
lives that is so, or without for as long as it stands there; and `by`, the pid that NVML shows.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_MIB = 1024 * 1024
TOTAL_MIB = 100 * 1024
nvmlMemory_v2 = 2  # noqa: N816  (NVML's name)


class NVMLError(Exception):
    """NVML's."""


def _held(gpu: int) -> dict[str, Any]:
    try:
        body = json.loads(Path(os.environ["STAND_IN_NVML"]).read_text())
    except (OSError, ValueError):
        return {}
    found: dict[str, Any] = body.get(str(gpu), {})
    holder = found.get("holder")
    return found if holder is None or Path(f"/proc/{holder}").exists() else {}


def nvmlInit() -> None:  # noqa: N802
    pass


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return 2


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    return index


def nvmlDeviceGetUUID(gpu: int) -> str:  # noqa: N802
    return f"GPU-{gpu}"


def nvmlDeviceGetName(gpu: int) -> str:  # noqa: N802
    return "a stand-in"


def nvmlDeviceGetMigMode(gpu: int) -> list[int]:  # noqa: N802
    raise NVMLError("not supported")


def nvmlDeviceGetMemoryInfo(gpu: int, version: int = 1) -> SimpleNamespace:  # noqa: N802
    used = _held(gpu).get("mib", 0)
    return SimpleNamespace(total=TOTAL_MIB * _MIB, used=used * _MIB, free=(TOTAL_MIB - used) * _MIB)


def nvmlDeviceGetComputeRunningProcesses(gpu: int) -> list[SimpleNamespace]:  # noqa: N802
    held = _held(gpu)
    return [SimpleNamespace(pid=held["by"], usedGpuMemory=held["mib"] * _MIB)] if "by" in held else []


def nvmlDeviceGetUtilizationRates(gpu: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(gpu=0)
