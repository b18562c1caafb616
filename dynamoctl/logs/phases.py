"""The start phase of a unit, read from its log. Pure except for reading the file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dynamoctl.planner.secrets import redact

# Patterns of lines of vLLM 0.26, Dynamo 1.4 and LMCache 0.5 that begin a phase. The last match counts.
_PHASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), phase)
    for pattern, phase in (
        (r"Initializing a V1 LLM engine", "starting the engine"),
        (r"Starting to load model", "loading weights"),
        (r"Dynamo bytecode transform time|Compiling a graph|Start compiling function", "compiling"),
        (r"Warming up model|kernel_warmup", "warming up"),
        (r"KV cache size: [\d,]+ tokens", "sizing the KV cache"),
        (r"Creating v1 connector with name: LMCacheMP", "connecting to the cache server"),
        (
            r"Initializing LMCacheEngine|Creating LMCacheEngine|Initializing (usage )?context",
            "pinning the cache",
        ),
        (r"Creating v1 connector with name: (Nixl|Multi)", "setting up KV transfer"),
        (r"Capturing CUDA graphs", "capturing graphs"),
        (r"Registering model with endpoint", "registering"),
    )
)

# A worker whose status port is taken logs this and runs on without its status server.
_PORT_LOST = re.compile(r"System status server startup failed")
# Not "entering degraded mode", which only lasts until the cache server answers again.
DEGRADED = re.compile(r"operate in degraded mode", re.IGNORECASE)
# LMCache's compiled kernels could not be imported (built for another torch version, for example).
_NO_KERNELS = re.compile(r"DeviceOps stays on the torch baseline|No compute backend loaded")
# vLLM found less free GPU memory than its share, or other processes took or freed memory while it profiled.
_NO_GPU_MEMORY = re.compile(
    r"Free memory on device .* is less than desired|Error in memory profiling"
    r"|CUDA out of memory|No available memory for the cache blocks"
)
# The frontend found a model and cannot serve it; it tries again after 1, 2, 4 s and so on. Dynamo 1.6 says
# the first, 1.4 the second, with fields after the message, as text or as JSON.
_NOT_LISTED = re.compile(
    r"(?:Model materialization failed|Error adding model from discovery).*?\berror\"?[=:]\s*"
    r"\"?(?P<why>.*?)(?:\",\"group|\",\"model_name|\"?\s*$)"
)
# A Dynamo process logs this before it exits by itself, with exit code 0.
_LEASE_LOST = re.compile(r"Unable to maintain lease")
# How a vLLM process ends that another one has brought down ("See root cause above").
_REFERS = re.compile(r"root cause", re.IGNORECASE)
_REFERRING_LINES = 12
# The last line of a traceback, bare or as a line of vLLM's log.
_ERROR = re.compile(
    r"^(?:\(\w+ pid=\d+\) )?(?:ERROR \S+ \S+ \[\S+\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE
)
_MOST_BYTES = 4 * 1024 * 1024
_TAIL_BYTES = 64 * 1024
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class LogWatch:
    """Follows one log as it grows.

    Attributes:
        phase: the last phase that began.
        degraded: the line in which LMCache reports that it stops caching, or empty.
        no_kernels: the line in which LMCache reports that it runs without its compiled kernels, or empty.
        port_lost: the line in which a worker reports that its status port is taken, or empty.
        no_gpu_memory: the line in which an engine reports that it lacks GPU memory, or empty.
        not_listed: why the frontend cannot list a model that it found, as it said last, or empty.
        times_not_listed: how often it has said so, one time after the other.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._at = self._began = log.stat().st_size if log.exists() else 0
        self.phase = "importing"
        self.degraded = ""
        self.no_kernels = ""
        self.port_lost = ""
        self.no_gpu_memory = ""
        self.not_listed = ""
        self.times_not_listed = 0

    def read(self) -> None:
        """Read the complete lines written since the last call."""
        try:
            with self._log.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._at:
                    self._at = 0  # truncated by log rotation
                file.seek(self._at)
                new = file.read(_MOST_BYTES)
        except OSError:
            return
        # A block without a line end is skipped, because the reader would never get past it.
        end = new.rfind(b"\n") + 1 or (len(new) if len(new) == _MOST_BYTES else 0)
        self._at += end
        for raw in new[:end].decode(errors="replace").splitlines():
            line = _ANSI.sub("", raw)
            for pattern, phase in _PHASES:
                if pattern.search(line):
                    self.phase = phase
            if _PORT_LOST.search(line):
                self.port_lost = line.strip()
            if DEGRADED.search(line) and not self.degraded:
                self.degraded = line.strip()
            if _NO_GPU_MEMORY.search(line):
                self.no_gpu_memory = line.strip()
            if _NO_KERNELS.search(line):
                self.no_kernels = line.strip()
            if found := _NOT_LISTED.search(line):
                why = found["why"]
                self.times_not_listed = self.times_not_listed + 1 if why == self.not_listed else 1
                self.not_listed = why

    def lost_lease(self) -> bool:
        """Whether its last lines say that its lease in etcd has expired."""
        return _LEASE_LOST.search(_tail(self._log, self._began)) is not None


def root_cause(log: Path) -> str:
    """The error that a log's last lines only refer to; empty if they do not.

    A vLLM process ends with "See root cause above", and the error of the process that failed first is some
    hundred lines above.
    """
    text = _tail(log)
    if not _REFERS.search("\n".join(text.splitlines()[-_REFERRING_LINES:])):
        return ""
    errors = [found[1] for found in _ERROR.finditer(text) if not _REFERS.search(found[1])]
    return redact(errors[-1])[:300] if errors else ""


def last_lines(log: Path, count: int = 12) -> list[str]:
    """The last lines of a log, without colours, empty lines and secrets, cut to 300 characters."""
    lines = [redact(line.rstrip())[:300] for line in _tail(log).splitlines()]
    return [line for line in lines if line][-count:]


def _tail(log: Path, since: int = 0) -> str:
    """The end of a log without colours, from byte `since` on (from the start, if the log was truncated)."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - _TAIL_BYTES))
            return _ANSI.sub("", file.read().decode(errors="replace"))
    except OSError:
        return ""
