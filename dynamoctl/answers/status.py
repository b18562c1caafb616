"""The answer of `status --json`.

`status` imports this each time, so nothing is slow here: freezing these classes would take it 1.5 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dynamoctl.answers.envelope import Answer, Error

SCHEMA = "dynamoctl/status/v1"


@dataclass
class UnitStatus:
    """One unit.

    Attributes:
        name: `frontend`, `lmcache`, `worker-0`, `decode-0`, `prefill-0`, ...
        role: `frontend`, `cache`, `agg`, `decode` or `prefill`.
        state: see [the states of a unit](reference.md#the-states-of-a-unit).
        phase: what the unit does while it starts, in words; empty once it is ready.
        pid: its first process; None if it does not run.
        gpus: its GPUs: indices (integers) or UUIDs (strings).
        memory_mib: the host memory that its processes hold, without the files that they map, MiB; None if
            the unit does not run or was not asked.
        gpu_memory_mib: the memory that its processes hold on its GPUs, MiB; None if it has no GPU, was not
            asked, or NVML does not show its processes (in some containers).
        health: `ok`, or what is wrong; None if the unit was not asked.
        restarts: how often it was restarted since `up`.
        uptime_s: time since its last start, seconds; None if it does not run.
        requests_running: requests that a worker's engine computes now; None if the unit is not a worker or
            did not answer.
        requests_waiting: requests that wait in a worker's engine now; None as for `requests_running`.
        kv_cache_usage: the share of the engine's KV cache that is in use, 0 to 1; None as for
            `requests_running`.
        patches: names of the [patches](versions.md#patches) that the plan switches on in it.
        standby: of the process that waits for its next start: `importing` or `ready`; None if there is none.
        service: `joining`: it does not count yet; `leaving`: it gets no requests and is removed; `drained`:
            `dynamoctl drain` keeps requests away from it; None: it serves as its state says.
    """

    name: str
    role: str
    state: str
    phase: str
    pid: int | None
    gpus: tuple[int | str, ...]
    memory_mib: int | None
    gpu_memory_mib: int | None
    health: str | None
    restarts: int
    uptime_s: float | None
    requests_running: int | None
    requests_waiting: int | None
    kv_cache_usage: float | None
    patches: tuple[str, ...]
    standby: str | None = None
    service: str | None = None


@dataclass
class CacheStatus:
    """LMCache's counters.

    Attributes:
        hit_tokens: tokens that LMCache had, since the start.
        requested_tokens: tokens that LMCache was asked for, since the start.
        hit_rate: `hit_tokens` / `requested_tokens`, 0 to 1; None if nothing was asked for yet.
    """

    hit_tokens: int
    requested_tokens: int
    hit_rate: float | None


@dataclass
class TransferStatus:
    """NIXL's KV transfers between workers.

    Attributes:
        count: transfers since the start.
        bytes: bytes that they moved.
        failed: transfers and notifications that failed.
    """

    count: int
    bytes: int
    failed: int


@dataclass
class LoadStatus:
    """Requests and tokens.

    Attributes:
        requests_running: requests that the workers' engines compute now; None if no worker answered. In a
            disaggregated deployment, a request is on a prefill worker first, then on a decode worker.
        requests_waiting: requests that wait in an engine now; None if no worker answered.
        requests_total: requests that the frontend has finished since its last start, including those by
            which `up` verifies the deployment; None if the frontend did not answer. The frontend does not
            count a request that it cannot parse (400), one that comes while no model is listed (404), and one
            whose client has disconnected before it began with it.
        failed_requests_total: how many of them did not end well, for any reason, including requests that were
            refused and clients that disconnected.
        prompt_tokens_total: tokens of their prompts, counted at the first token of the answer: a request
            without one is not in it. Of a request with a list of prompts, the frontend counts one prompt.
        generation_tokens_total: tokens that were generated, including those of answers that failed later.
        moved_requests_total: how often the frontend moved a request to another worker because its own worker
            had died, including moves that no other worker could take (that request is also among the
            failed); None if requests are not moved (`migration_limit`) or the frontend did not answer.
        failed_requests_by_type: the failed requests by the frontend's type of error. `cancelled`: the client
            disconnected. `validation`: refused with 400. `not_found`: an unknown model. The other types are
            not the client's doing, as `unavailable`: the worker died. None if the frontend did not answer.
    """

    requests_running: int | None
    requests_waiting: int | None
    requests_total: int | None
    failed_requests_total: int | None
    prompt_tokens_total: int | None
    generation_tokens_total: int | None
    moved_requests_total: int | None
    failed_requests_by_type: Mapping[str, int] | None = None


@dataclass
class GpuStatus:
    """One GPU.

    Attributes:
        gpu: its index or UUID, as in the unit's `gpus`, always a string.
        memory_used_mib: memory in use by any process, MiB.
        memory_total_mib: its whole memory, MiB.
        utilization: the share of the last moment (up to a second) in which a kernel ran, 0 to 1; None if
            NVML does not report it (MIG).
    """

    gpu: str
    memory_used_mib: int
    memory_total_mib: int
    utilization: float | None


@dataclass
class RemoteWorker:
    """A worker on another host, as etcd knows it.

    Attributes:
        component: its component in Dynamo's discovery.
        endpoint: its endpoint in Dynamo's discovery.
        address: where it is reached.
    """

    component: str
    endpoint: str
    address: str


@dataclass
class ChangeStatus:
    """A change that is under way.

    Attributes:
        revision: the number of the plan that it leads to.
        what: what was asked for, as `scale decode 2`.
        step: what is being done now, as `adding decode-1`.
        seconds: for how long it has been under way, seconds.
    """

    revision: int
    what: str
    step: str
    seconds: float


@dataclass
class StatusAnswer(Answer):
    """One deployment.

    Attributes:
        name: the deployment.
        mode: `agg` or `disagg`; None if it was never started.
        state: `starting`, `ready`, `degraded` (a unit is down and will be restarted, another host's part is
            missing, etcd or an LMCache tier does not answer, or workers have different copies of the model),
            `stopping`, `stopped`, `failed`, or `unsupervised` (its supervisor is gone and some of its
            processes live).
        model: the name that clients use; None if it was never started.
        endpoint: the frontend's base URL, without `/v1`; None if the frontend is on another host.
        units: its units, in the order of their start.
        cache: LMCache's counters; None if LMCache is off or no unit was asked.
        transfers: NIXL's KV transfers; None if no unit was asked.
        load: requests and tokens; None if no unit was asked.
        gpus: its GPUs; empty if it has none or no unit was asked.
        remote: its workers on other hosts; None if etcd or the supervisor does not report them.
        error: why it failed; None if it did not fail.
        warnings: what does not stop it but should be known.
        revision: number of the plan that runs (`dynamoctl history`); None if it was never started.
        change: the change that is under way; None if there is none.
    """

    schema: ClassVar[str] = SCHEMA

    name: str
    mode: str | None
    state: str
    model: str | None
    endpoint: str | None
    units: tuple[UnitStatus, ...]
    cache: CacheStatus | None
    transfers: TransferStatus | None
    load: LoadStatus | None
    gpus: tuple[GpuStatus, ...]
    remote: tuple[RemoteWorker, ...] | None
    error: Error | None
    warnings: tuple[str, ...]
    revision: int | None = None
    change: ChangeStatus | None = None


@dataclass
class StatusAllAnswer(Answer):
    """Every deployment (`--all`).

    Attributes:
        deployments: the deployments, sorted by name.
    """

    schema: ClassVar[str] = SCHEMA

    deployments: tuple[StatusAnswer, ...]
