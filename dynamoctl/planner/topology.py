"""Where each worker runs: roles times replicas on GPUs or on CPU cores, and the ports they get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from dynamoctl.errors import PreflightError, SpecError
from dynamoctl.facts import HostFacts
from dynamoctl.planner.connectors import Device
from dynamoctl.planner.plan import Role
from dynamoctl.spec import DeploymentSpec

# vLLM's own default is 0.92 of the GPU; sharers divide a little less, since each also needs memory
# outside its share (CUDA context, NCCL, NIXL's buffers).
SHARED_MEMORY = 0.88


@dataclass(frozen=True)
class Placement:
    """One worker's place.

    Attributes:
        gpus: entries for CUDA_VISIBLE_DEVICES, one a rank; empty on a CPU.
        memory_share: the part of each GPU's memory it may use, or None for the engine's default.
        cores: the CPU cores it is bound to; empty for no binding.
    """

    name: str
    role: Role
    gpus: tuple[int | str, ...] = ()
    memory_share: float | None = None
    cores: tuple[int, ...] = ()


def device(spec: DeploymentSpec, facts: HostFacts) -> Device:
    """The device that the workers run on: GPUs where they are named or there, else the CPU."""
    if spec.engine == "mocker" or spec.device == "cpu":
        return "cpu"
    if spec.device == "cuda" or spec.gpus:
        return "cuda"
    return "cuda" if facts.gpus and facts.visible_gpus != () else "cpu"


def place(spec: DeploymentSpec, facts: HostFacts) -> list[Placement]:
    """Every worker with its GPUs or cores: decode replicas first, each with `tp` GPUs in a row.

    Raises:
        SpecError: a worker would get one GPU twice.
        PreflightError: a GPU that CUDA_VISIBLE_DEVICES does not show.
    """
    names = _names(spec)
    if device(spec, facts) == "cuda":
        return _on_gpus(names, _visible(spec, facts), spec.tp)
    return _on_cores(names, facts.cores, bind=spec.engine == "vllm")


def _names(spec: DeploymentSpec) -> list[tuple[str, Role]]:
    if spec.mode == "agg":
        return [(f"worker-{i}", "agg") for i in range(spec.workers)]
    decode: list[tuple[str, Role]] = [(f"decode-{i}", "decode") for i in range(spec.decode)]
    return decode + [(f"prefill-{i}", "prefill") for i in range(spec.prefill)]


def _visible(spec: DeploymentSpec, facts: HostFacts) -> list[int | str]:
    """The named GPUs as CUDA_VISIBLE_DEVICES wants them.

    An index counts within the caller's own CUDA_VISIBLE_DEVICES, as it does for CUDA itself.
    """
    named = spec.gpus or tuple(str(i) for i in range(spec.ranks))
    if facts.visible_gpus is None:
        return [int(gpu) if gpu.isdigit() else gpu for gpu in named]
    result: list[int | str] = []
    for gpu in named:
        shown = gpu
        if gpu.isdigit():
            if int(gpu) >= len(facts.visible_gpus):
                shows = ",".join(facts.visible_gpus)
                raise PreflightError(
                    f"GPU {gpu} is not there: CUDA_VISIBLE_DEVICES={shows} shows {len(facts.visible_gpus)}",
                    "name fewer GPUs, or one twice to share it, or unset CUDA_VISIBLE_DEVICES",
                )
            shown = facts.visible_gpus[int(gpu)]
        result.append(int(shown) if shown.isdigit() else shown)
    return result


def _on_gpus(names: list[tuple[str, Role]], gpus: list[int | str], tp: int) -> list[Placement]:
    sharers = Counter(gpus)
    placements = []
    for i, (name, role) in enumerate(names):
        own = tuple(gpus[i * tp : (i + 1) * tp])
        if len(set(own)) < len(own):
            raise SpecError(
                f"gpus: {name} would get GPU {own[0]} twice",
                "the ranks of one worker need a GPU each; only different workers can share one",
            )
        most = max(sharers[gpu] for gpu in own)
        share = int(SHARED_MEMORY / most * 100) / 100 if most > 1 else None
        placements.append(Placement(name, role, own, share))
    return placements


def _on_cores(names: list[tuple[str, Role]], cores: tuple[int, ...], bind: bool) -> list[Placement]:
    """Split the cores evenly. One worker alone is not bound: vLLM's own choice is as good.

    Two unbound CPU engines starve each other's event loops. With more workers than cores, they
    take turns.
    """
    count = len(names)
    if count == 1 or not bind:
        return [Placement(name, role) for name, role in names]
    placements = []
    for i, (name, role) in enumerate(names):
        own = cores[i * len(cores) // count : (i + 1) * len(cores) // count]
        placements.append(Placement(name, role, cores=own or (cores[i % len(cores)],)))
    return placements


class Ports:
    """Hands out the host's free ports, each once.

    All are at most 32767: Dynamo's worker crashes at start-up with a larger system port.
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
