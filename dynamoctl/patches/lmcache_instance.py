"""By which process of a worker something is registered with LMCache's server.

The server maps the KV cache of each process that registers, under a random number. If the process dies, the
server keeps the mapping, and with it the GPU memory, until it has heard nothing for 120 s; for an hour if the
process had not pinged it yet, which it does from its first request on. The next worker has no memory until
then.

With the patch, the number says which process it is, so that dynamoctl's server (`processes.cache_clients`)
removes what the process registered when it has ended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dynamoctl.patches.base import Patch, wrap

# The variable of a unit's processes (`host.processes.MARK`). Without it, worker and server may be in two
# containers, each with pids of its own.
_MARK = "DYNAMOCTL_UNIT"
# The highest pid of Linux is 2^22 (proc(5), /proc/sys/kernel/pid_max). LMCache's numbers have 63 bits.
_PID_BITS = 22


def instance_id(pid: int, start_ticks: int) -> int:
    """The number of a process.

    Args:
        pid: less than 2^22.
        start_ticks: start time in clock ticks since boot: field 22 of /proc/PID/stat.
    """
    return start_ticks << _PID_BITS | pid


def process_of(instance: int) -> tuple[int, int]:
    """The pid and the start time (clock ticks since boot) of the process with this number."""
    return instance & (1 << _PID_BITS) - 1, instance >> _PID_BITS


def _own() -> int:
    stat = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return instance_id(os.getpid(), int(stat[19]))


def register_as_process(adapter: Any) -> None:
    """Have LMCache's adapter register under the number of its process.

    Args:
        adapter: LMCache's `LMCacheMPWorkerAdapter`.
    """

    def around(plain: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            plain(self, *args, **kwargs)
            if not isinstance(self.instance_id, int):
                raise TypeError(f"its instance id is not a number: {self.instance_id!r}")
            self.instance_id = _own()

        return init

    wrap(adapter, "__init__", around, PATCH.name)


def _change(_value: str) -> None:
    from lmcache.integration.vllm import vllm_multi_process_adapter as adapters

    adapter = adapters.LMCacheMPWorkerAdapter
    if _MARK in os.environ:
        register_as_process(adapter)


PATCH = Patch(
    name="lmcache-instance",
    variable="DYNAMOCTL_LMCACHE_INSTANCE",
    package="lmcache",
    versions=("0.5.6",),
    upstream="lmcache==0.5.6:lmcache/v1/multiprocess/config.py:MPServerConfig.worker_reap_timeout_seconds",
    without="the GPU memory of a worker that died stays in use for two minutes to an hour",
    change=_change,
    at_connector=True,
)
