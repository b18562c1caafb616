"""What the planner needs to know of the host: plain data, read by `host`, handed to `planner`.

The planner does no I/O. The same spec and the same facts give the same plan, on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

_CUDA_NAME = re.compile(r"[0-9]+|(GPU|MIG)-.+")


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML reports it. Memory in MiB."""

    index: int
    uuid: str
    name: str
    memory_mib: int

    def is_named(self, name: int | str) -> bool:
        """Whether an entry of CUDA_VISIBLE_DEVICES means it: its index, its UUID, or how that begins."""
        return self.index == name or (isinstance(name, str) and self.uuid.startswith(name))


def shown(visible: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """What CUDA_VISIBLE_DEVICES shows. CUDA stops at the first entry that names no GPU (-1 for none)."""
    return None if visible is None else tuple(takewhile(_CUDA_NAME.fullmatch, visible))


def usable(gpus: tuple[Gpu, ...], visible: tuple[str, ...] | None) -> tuple[Gpu | None, ...]:
    """The GPUs as `--gpus` counts them: within CUDA_VISIBLE_DEVICES, where that is set.

    None for one that NVML does not list, as a MIG instance.
    """
    entries = shown(visible)
    if entries is None:
        return gpus
    names = [int(entry) if entry.isdigit() else entry for entry in entries if gpus]
    return tuple(next((gpu for gpu in gpus if gpu.is_named(name)), None) for name in names)


@dataclass(frozen=True)
class ModelFacts:
    """A model that has been looked for.

    Attributes:
        path: what the engine gets as `--model`: a folder or a hub id.
        served_name: the name under which the frontend lists it.
        folder: the local folder that holds its `config.json`, or None where it is not here yet.
        builtin: whether it is the model that ships with dynamoctl.
        chat: whether its tokenizer has a chat template.
        weights_gib: the size of its weights on disk, GiB; None where they are not here.
        config: its config.json, as far as the size of its KV cache depends on it; None where it is not here.
    """

    path: str
    served_name: str
    folder: str | None = None
    builtin: bool = False
    chat: bool = True
    weights_gib: float | None = None
    config: Mapping[str, Any] | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is, or will be, a folder on this machine, as against a hub id."""
        return self.path.startswith("/")


@dataclass(frozen=True)
class Interface:
    """A network interface that is up; an address with a label of its own (`eth0:1`) counts as one.

    Attributes:
        addresses: its IPv4 addresses, in the kernel's order.
        ipv6: whether it has an IPv6 address too.
        rdma: the RDMA devices behind it, as UCX names them (`mlx5_0:1`).
    """

    name: str
    addresses: tuple[str, ...]
    ipv6: bool = False
    rdma: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """One look at the host.

    Attributes:
        cores: the CPU cores this process may use, by number.
        memory_total_gib: physical memory (or the cgroup's limit, where that is less), GiB.
        memory_available_gib: memory that can be had without swapping, GiB.
        gpus: the GPUs that NVML lists; empty without a driver.
        visible_gpus: the entries of the caller's CUDA_VISIBLE_DEVICES, or None where it is unset.
        free_ports: TCP ports nobody listens on, all at most 32767 (Dynamo's limit for a system port).
        python: the interpreter that runs the engine.
        home: the folder of this deployment, where its store, logs and working folders go.
        versions: distribution -> version, of the engine's packages that are installed.
        interfaces: the network interfaces that are up and have an IPv4 address.
        way_out: this host's address on its way to other networks; None where it has none but the loopback.
    """

    cores: tuple[int, ...]
    memory_total_gib: float
    memory_available_gib: float
    gpus: tuple[Gpu, ...]
    visible_gpus: tuple[str, ...] | None
    free_ports: tuple[int, ...]
    python: str
    home: str
    versions: Mapping[str, str] = field(default_factory=dict)
    interfaces: tuple[Interface, ...] = ()
    way_out: str | None = None
