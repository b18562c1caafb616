"""The facts about the host that the planner needs: plain data, read by `host` and passed to `planner`.

The planner does no I/O. The same spec and the same facts give the same plan on any machine.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from dynamoctl.errors import SpecError

_CUDA_NAME = re.compile(r"[0-9]+|(GPU|MIG)-.+")
# As taskset writes it (0-7, or 0-7:2 for every second one) and Slurm (0-7).
INDEX_RANGE = r"[0-9]{1,3}-[0-9]{1,3}(:[0-9]{1,3})?"
_INDEX_RANGE = re.compile(INDEX_RANGE)


@dataclass(frozen=True)
class MigInstance:
    """A MIG instance that this user may use.

    Attributes:
        index: its number on its GPU, as NVML counts.
        ids: the numbers of its GPU instance and its compute instance, as in 1/0.
        memory_mib: its memory, in MiB.
    """

    index: int
    uuid: str
    ids: str
    memory_mib: int


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML reports it.

    Attributes:
        memory_mib: total memory, in MiB.
        instances: its MIG instances; None if it is not in MIG mode.
    """

    index: int
    uuid: str
    name: str
    memory_mib: int
    instances: tuple[MigInstance, ...] | None = None

    def is_named(self, name: int | str) -> bool:
        """Whether an entry of CUDA_VISIBLE_DEVICES means this GPU: its index, its UUID or a UUID prefix."""
        return self.index == name or (isinstance(name, str) and self.uuid.startswith(name))

    def instances_named(self, name: int | str) -> tuple[MigInstance, ...]:
        """Its MIG instances that an entry means: a UUID or its beginning, or MIG-GPU-UUID/1/0."""
        return tuple(
            instance
            for instance in self.instances or ()
            if isinstance(name, str)
            and (instance.uuid.startswith(name) or name == f"MIG-{self.uuid}/{instance.ids}")
        )


def index_range(text: str) -> tuple[str, ...] | None:
    """The indices of a range such as 0-3; None if the text is not a range.

    Raises:
        ValueError: the range is empty.
    """
    if not _INDEX_RANGE.fullmatch(text):
        return None
    ends, _, step = text.partition(":")
    first, last = (int(end) for end in ends.split("-"))
    if last < first:
        raise ValueError(f"'{text}' is a range that counts down: write {last}-{first}")
    if step and not int(step):
        raise ValueError(f"'{text}' has a step of 0: write {ends}")
    return tuple(map(str, range(first, last + 1, int(step or 1))))


def visible_entries(visible: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The valid entries of CUDA_VISIBLE_DEVICES. CUDA stops at the first entry that is not a GPU (as -1).

    CUDA itself reads 0-3 as 0. Here it is a range, because that is what its author means; the workers get
    each index.

    Raises:
        SpecError: a range is empty.
    """
    if visible is None:
        return None
    entries: list[str] = []
    for entry in visible:
        try:
            indices = index_range(entry)
        except ValueError as error:
            raise SpecError(
                f"CUDA_VISIBLE_DEVICES: {error}", "list the GPUs that may be used, or unset it"
            ) from None
        if indices is None and not _CUDA_NAME.fullmatch(entry):
            break
        entries += indices or [entry]
    return tuple(entries)


def usable_gpus(gpus: tuple[Gpu, ...], visible: tuple[str, ...] | None) -> tuple[Gpu | None, ...]:
    """The GPUs that `--gpus` indexes: those in CUDA_VISIBLE_DEVICES if it is set, otherwise all.

    An entry is None if NVML does not list the GPU (a MIG instance).
    """
    entries = visible_entries(visible)
    if entries is None:
        return gpus
    names = [int(entry) if entry.isdigit() else entry for entry in entries if gpus]
    return tuple(next((gpu for gpu in gpus if gpu.is_named(name)), None) for name in names)


def hub_id(repository: str) -> str | None:
    """The hub id of a folder in the hub's cache, as models--Qwen--Qwen3-0.6B; None for any other folder."""
    kind, *parts = repository.split("--")
    return "/".join(parts) if kind == "models" and len(parts) in (1, 2) and all(parts) else None


def folder_name(folder: PurePath) -> str:
    """The name under which the model in a folder is served by default: the folder's.

    A snapshot in the hub's cache has the hub's name, because its folder's is a hash.
    """
    # As the path is written: who names a link wants its name.
    path = PurePath(os.path.normpath(folder))
    if path.parent.name == "snapshots" and (name := hub_id(path.parent.parent.name)):
        return name
    return path.name


@dataclass(frozen=True)
class ModelFacts:
    """A located model.

    Attributes:
        path: the engine's `--model`: a folder or a hub id.
        served_name: the name under which the frontend lists it.
        folder: the local folder with its `config.json`; None if the model is not on this host yet.
        builtin: whether it is the model that dynamoctl brings along.
        chat: whether its tokenizer has a chat template.
        weights_gib: size of its weights on disk, in GiB; None if they are not on this host.
        config: the keys of its config.json that determine the KV cache's size; None if it is not on this
            host.
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
        """Whether `path` is a folder on this host, which may not exist yet, and not a hub id."""
        return self.path.startswith("/")


@dataclass(frozen=True)
class Interface:
    """A network interface that is up. An address with its own label (`eth0:1`) counts as an interface.

    Attributes:
        addresses: IPv4 addresses, in the kernel's order.
        ipv6: whether it also has an IPv6 address.
        rdma: its RDMA devices, as UCX names them (`mlx5_0:1`).
    """

    name: str
    addresses: tuple[str, ...]
    ipv6: bool = False
    rdma: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """The state of the host at one moment.

    Attributes:
        cores: numbers of the CPU cores that this process may use.
        memory_total_gib: physical memory, or the cgroup's limit if that is less, in GiB.
        memory_available_gib: memory available without swapping, in GiB.
        gpus: the GPUs that NVML lists; empty without a driver.
        visible_gpus: the entries of the caller's CUDA_VISIBLE_DEVICES; None if it is unset.
        free_ports: free TCP ports up to 32767 (Dynamo's limit for a system port).
        python: path of the interpreter that runs the engine.
        home: the deployment's folder, with its discovery directory, logs and working folders.
        versions: distribution -> version, of the installed packages of the engine.
        interfaces: the network interfaces that are up and have an IPv4 address.
        way_out: this host's address on the default route; None if it only has the loopback.
        caller_paths: those variables of the caller's environment that hold a relative path, with an absolute
            one: the units run in other folders.
        builds_kernels: whether FlashInfer finds a CUDA compiler, or has its kernels built.
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
    caller_paths: Mapping[str, str] = field(default_factory=dict)
    builds_kernels: bool = True
