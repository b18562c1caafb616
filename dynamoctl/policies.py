"""The numbers and orders that several parts of dynamoctl act on, each in one place.

The supervisor, `down`, the exporters, the flags' help, the configuration's defaults and the documentation
read them here. It is a leaf, which imports nothing of the package, so that `--help` stays fast. A name that
ends in `_S` is in seconds, one in `_GIB` in GiB.
"""

from __future__ import annotations

from typing import Final

# ---- defaults of what a user may set (`config.spec`) -------------------------------------------------------

BUILTIN_MODEL = "smollm2-135m-instruct"
# Small and open, and it answers well: what Dynamo's own examples use.
GPU_MODEL = "Qwen/Qwen3-0.6B"
LOOPBACK = "127.0.0.1"
HTTP_PORT = 8000
ROUTER_MODE: Final = "round-robin"
REPLICAS = 1
# LMCache's own default (lmcache==0.5.3: lmcache/v1/config.py: chunk_size).
CHUNK_TOKENS = 256
# On GPUs as Dynamo's LMCache integration has it: 20 GiB of pinned CPU memory for each rank.
CACHE_CPU_GIB = {"cuda": 20.0, "cpu": 1.0}
# The largest part of the available memory that a default takes: in process, LMCache pins it at the start.
CACHE_CPU_SHARE = 0.5
# More than one, because workers can die while others are still on their way back. Not many more: a request
# that itself kills its worker is moved as well, and kills one more worker each time.
MIGRATION_LIMIT = 3
# One deadline for the whole start: download, loading, compilation and the first completion.
START_TIMEOUT_S = 1800.0
# An engine in the middle of a step may compute, or compile a kernel for the first time; a long prompt is many
# steps.
HANG_TIMEOUT_S = 180.0
# Grace period for requests in flight when a worker is stopped.
DRAIN_S = 5.0

# ---- stop --------------------------------------------------------------------------------------------------

# Groups of roles, in reverse order of their start: the next group is stopped when the one before is gone.
STOP_ORDER = (("prefill",), ("decode", "agg"), ("cache",), ("frontend",))
# From SIGTERM to the end of a unit that was ready, besides `drain_s`. Measured: 16 s for an idle worker with
# LMCache on an H100, with its own 5 s of grace.
GRACE_READY_S = 25.0
# A worker that is loading does not hear SIGTERM until it has loaded; it serves nobody yet.
GRACE_LOADING_S = 5.0
# What SIGKILL needs to take effect; a process in uninterruptible sleep takes longer and is named.
KILL_PATIENCE_S = 15.0
# What a unit's helpers (Python's resource trackers) need to remove the semaphores and shared memory of those
# that have ended; they then end by themselves.
TRACKER_PATIENCE_S = 3.0
# How long `down` waits for a supervisor, besides its own `drain_s`, that of the prefill workers and that of
# the others: one that stops its units group after group, each with its full grace, needs less.
SUPERVISOR_PATIENCE_S = 180.0


def stop_grace_s(drain_s: float) -> float:
    """Seconds from SIGTERM to SIGKILL for a unit that was ready, requests in flight included."""
    return drain_s + GRACE_READY_S


# ---- restart -----------------------------------------------------------------------------------------------

# So many restarts of a unit within the window; its next end makes the deployment `failed`.
RESTART_LIMIT = 3
RESTART_WINDOW_S = 600.0
# The pause before a restart: it doubles from the first to the longest, and is up to BACKOFF_JITTER longer or
# shorter by chance, so that units that ended together do not start together.
BACKOFF_FIRST_S = 5.0
BACKOFF_LONGEST_S = 60.0
BACKOFF_JITTER = 0.2
# A unit that was ready for so long is restarted at once the first time.
SERVED_WELL_S = 120.0
# A restart that takes longer than so many times the unit's longest start, and longer than `hang_timeout_s`,
# hangs: it is ended and tried again. The first start has all of `START_TIMEOUT_S`: it may download a model.
RESTART_HUNG_STARTS = 4.0
# Starts in a row that end for want of GPU memory before they count as failures.
STARVED_LIMIT = 3
# How long GPU memory is waited for that no process can be made to release.
GPU_MEMORY_PATIENCE_S = 600.0
# A worker is restarted for the sake of another's memory alone once it had no request for so long.
QUIET_S = 30.0

# ---- readiness and signs of life ---------------------------------------------------------------------------

# One question to a unit. The loopback answers in milliseconds; a starved two-core host in seconds.
PROBE_TIMEOUT_S = 10.0
# One completion, as the one that proves a start.
COMPLETION_TIMEOUT_S = 120.0
# What answers in milliseconds as long as it runs (a status server, a frontend, an idle engine): when it
# counts as `unresponsive`, and when it is restarted. On a busy host a core was seen to stand still for 20 s:
# nothing is restarted for that.
PROMPT_SILENT_S = 10.0
PROMPT_HUNG_S = 45.0
# An engine in the middle of a step is `unresponsive` after this part of `hang_timeout_s`.
BUSY_SILENT_SHARE = 1 / 3
# How long the frontend may not list a model whose workers are all registered.
UNLISTED_S = 20.0
# How long a worker that is ready may be missing in discovery. It registers as its gate opens.
UNREGISTERED_S = 20.0
# How long a start waits for the model cards of its own workers before it compares without them.
REGISTERS_S = 5.0
# How long a start with the frontend waits for another host to leave that registered another model: longer
# than that host takes to find out and to stop.
MISMATCHED_S = 30.0
