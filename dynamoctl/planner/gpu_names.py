"""Which GPUs a plan means: each entry of --gpus and of CUDA_VISIBLE_DEVICES under one name.

Workers get whole UUIDs. CUDA takes the beginning of one, but vLLM asks NVML, which does not:
vllm==0.31.0:vllm/platforms/cuda.py:NvmlCudaPlatform.device_control_id_to_physical_device_id
(https://github.com/vllm-project/vllm/issues/51677).
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.facts import Gpu, HostFacts, MigInstance, visible_entries

# An index (int), or the UUID of a GPU or of a MIG instance.
GpuName = int | str


@dataclass(frozen=True)
class Match:
    """What a name means on this host.

    Attributes:
        name: an index or a whole UUID; as it was given if NVML does not list it.
        gpu: the GPU, also if one of its MIG instances is named; None if NVML does not list it.
        instance: the MIG instance that CUDA would use; None without MIG, or if CUDA has to choose.
    """

    name: GpuName
    gpu: Gpu | None = None
    instance: MigInstance | None = None

    @property
    def identity(self) -> GpuName:
        """Equal for all names of one GPU or instance."""
        if self.gpu is None:
            return self.name
        if self.instance is None or len(self.gpu.instances or ()) == 1:
            return self.gpu.index
        return self.instance.uuid

    @property
    def is_mig(self) -> bool:
        """Whether it is a MIG instance, or a GPU in MIG mode."""
        if self.gpu is not None:
            return self.gpu.instances is not None
        return isinstance(self.name, str) and self.name.startswith("MIG-")

    @property
    def memory_mib(self) -> int | None:
        """Its memory, in MiB; None if NVML does not list it."""
        return self.instance.memory_mib if self.instance else self.gpu.memory_mib if self.gpu else None


def find(name: GpuName, facts: HostFacts) -> Match:
    """The GPU or the MIG instance that an entry of CUDA_VISIBLE_DEVICES means.

    Raises:
        PreflightError: several UUIDs begin with it.
    """
    if isinstance(name, str) and name.isdigit():
        name = int(name)
    matches = []
    for gpu in facts.gpus:
        if gpu.is_named(name):
            alone = gpu.instances[0] if gpu.instances and len(gpu.instances) == 1 else None
            matches.append(Match(name if isinstance(name, int) else gpu.uuid, gpu, alone))
        matches += [Match(instance.uuid, gpu, instance) for instance in gpu.instances_named(name)]
    matches = [match for match in matches if match.name == name] or matches
    if len(matches) > 1:
        raise PreflightError(
            f"GPU {name} is ambiguous: {len(matches)} UUIDs begin with it",
            f"give more of one: {', '.join(str(match.name) for match in matches)}",
        )
    return matches[0] if matches else Match(name)


def chosen(spec: DeploymentSpec, facts: HostFacts) -> list[GpuName]:
    """The workers' GPUs, in the order in which they take them, as entries for CUDA_VISIBLE_DEVICES.

    An index counts within the caller's own CUDA_VISIBLE_DEVICES, as it does for CUDA itself (CUDA C++
    Programming Guide, CUDA environment variables: CUDA_VISIBLE_DEVICES).

    Raises:
        SpecError: CUDA_VISIBLE_DEVICES has an empty range.
        PreflightError: CUDA_VISIBLE_DEVICES does not show a GPU, the beginning of a UUID is ambiguous, or a
            GPU in MIG mode cannot be used under its name.
    """
    named = spec.gpus or tuple(str(i) for i in range(spec.ranks))
    entries = visible_entries(facts.visible_gpus)
    if entries is None:
        return [_entry(find(gpu, facts), facts) for gpu in named]
    visible = [find(entry, facts) for entry in entries]
    identities = {match.identity for match in visible}
    names = []
    for gpu in named:
        if gpu.isdigit():
            match = visible[int(gpu)] if int(gpu) < len(visible) else None
        else:
            match = find(gpu, facts)
            # Of a MIG instance that NVML does not list, CUDA itself will say whether it is there.
            if not (match.is_mig and match.gpu is None) and identities.isdisjoint(
                {match.identity, match.gpu.index if match.gpu else match.identity}
            ):
                match = None
        if match is None:
            raise PreflightError(
                f"GPU {gpu} is not there: CUDA_VISIBLE_DEVICES={','.join(facts.visible_gpus or ())}"
                f" shows {len(visible)}",
                "name others, or one twice to share it, or unset CUDA_VISIBLE_DEVICES",
            )
        names.append(_entry(match, facts))
    return names


def of_one_kind(worker: str, gpus: tuple[GpuName, ...], facts: HostFacts) -> tuple[GpuName, ...]:
    """A worker's GPUs by their indices if some are indices and some UUIDs.

    CUDA reads only the entries that are of the first one's kind
    (torch==2.13.0:torch/cuda/__init__.py:_parse_visible_devices).

    Raises:
        SpecError: the index of one of them is not known.
    """
    matches = [find(gpu, facts) for gpu in gpus]
    if len({type(gpu) for gpu in gpus}) < 2 or any(match.is_mig for match in matches):
        return gpus  # `topology.check_mig` knows about MIG instances
    indices = tuple(match.identity for match in matches)
    unknown = next((gpu for gpu in indices if isinstance(gpu, str)), None)
    if unknown is not None:
        raise SpecError(
            f"gpus: {worker} would get GPU {unknown} beside an index, and CUDA does not read both",
            "name all GPUs of a worker by their UUIDs, or all by their indices",
        )
    return indices


def _entry(match: Match, facts: HostFacts) -> GpuName:
    """The name under which both CUDA and vLLM find a GPU or a MIG instance.

    CUDA takes the first instance of a GPU in MIG mode. vLLM 0.31 takes the number of an instance on its GPU
    for the index of a GPU (nvmlDeviceGetIndex counts instances within their GPU), and asks that GPU what it
    can do.

    Raises:
        PreflightError: CUDA would have to choose an instance, or vLLM would ask a GPU that is missing or of
            another kind.
    """
    gpu, instance = match.gpu, match.instance
    if gpu is None or gpu.instances is None:
        return match.name
    if instance is None:
        uuids = ", ".join(one.uuid for one in gpu.instances)
        raise PreflightError(
            f"GPU {match.name} is in MIG mode and has {len(gpu.instances) or 'no'} instances",
            f"name an instance instead: {uuids}"
            if uuids
            else "create one (nvidia-smi mig -cgi PROFILE -C), or turn MIG mode off",
        )
    if len(gpu.instances) == 1:
        return gpu.index
    asked = next((one for one in facts.gpus if one.index == instance.index), None)
    if asked is None or asked.name != gpu.name:
        raise PreflightError(
            f"vLLM cannot use {instance.uuid}: it is instance {instance.index} of its GPU, and vLLM takes"
            f" that for GPU {instance.index}, "
            + ("which does not exist" if asked is None else f"of another kind ({asked.name})"),
            "name another instance, or use a container that sees this one alone",
        )
    return instance.uuid
