"""The answer of `init --json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer


@dataclass(frozen=True)
class InitGpu:
    """A GPU that may be used.

    Attributes:
        gpu: its index as `--gpus` counts, always a string.
        name: its product name; None for a MIG instance.
        memory_total_mib: its memory, MiB; None for a MIG instance.
    """

    gpu: str
    name: str | None
    memory_total_mib: int | None


@dataclass(frozen=True)
class InitAnswer(Answer):
    """The file that was written, and what is on this machine.

    Attributes:
        path: the absolute path of the file.
        mode: `agg` or `disagg`.
        device: `cuda` or `cpu`.
        model: the name that clients use.
        next: the command to run next.
        notes: what should be known about the choices.
        cores: the number of CPU cores that may be used.
        memory_total_gib: the host's memory, GiB.
        memory_available_gib: the host's free memory, GiB.
        gpus: the GPUs that may be used.
        models: the models that need no download.
    """

    schema: ClassVar[str] = "dynamoctl/init/v1"

    path: str
    mode: str
    device: str
    model: str
    next: str
    notes: tuple[str, ...]
    cores: int
    memory_total_gib: float
    memory_available_gib: float
    gpus: tuple[InitGpu, ...]
    models: tuple[str, ...]
