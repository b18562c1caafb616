"""The only place that spawns and signals processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dynamoctl.errors import InternalError
from dynamoctl.host.processes import Identity, identify, is_running, started_as
from dynamoctl.logs.files import private

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def become_subreaper() -> None:
    """Become the parent of orphaned descendants, so that no process of a unit escapes by forking twice."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise InternalError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to the hard limit, also for child processes: vLLM asks for 65,535."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def spawn(
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
    log: Path,
    stdin: int = subprocess.DEVNULL,
) -> Identity:
    """Start a program in its own session (and so its own process group), with its output appended to a log.

    Args:
        environ: the whole environment.
        cwd: working directory; it is made if it does not exist.
        stdin: the file descriptor that is its input; by default it has none.

    Raises:
        OSError: the program cannot be started.
    """
    cwd.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", opener=private) as output:
        child = subprocess.Popen(
            argv,
            env=dict(environ),
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    identity = identify(child.pid)
    # `reap` collects every child; without a return code, Popen would warn that the child is still running.
    child.returncode = 0
    if identity is None:
        raise InternalError(f"process {child.pid} has vanished before it was reaped")
    return identity


def spawn_supervisor(folder: Path, log: Path) -> Identity:
    """Start a supervisor that outlives its caller and its terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return spawn([sys.executable, *_supervising(folder)], os.environ, Path(folder), log)


def supervisors(folder: Path) -> list[Identity]:
    """The living supervisors of a deployment, found by their command line."""
    return started_as(_supervising(folder))


def _supervising(folder: Path) -> list[str]:
    return ["-m", "dynamoctl.supervisor", str(folder)]


def run_script(
    argv: Sequence[str], environ: Mapping[str, str], cwd: Path, on_line: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Run a helper program to its end; it is killed if the caller is interrupted.

    Args:
        on_line: called with each line of its stdout.

    Returns:
        Its exit code, and up to six last lines of its stderr.

    Raises:
        OSError: the program cannot be started.
    """
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            argv,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                on_line(line)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        errors.seek(0)
        return code, [line for line in errors.read().splitlines() if line.strip()][-6:]


def follow(argv: Sequence[str], environ: Mapping[str, str], cwd: Path, on_line: Callable[[str], None]) -> int:
    """Run a program, which may start others, to its end. All of them are killed at the end or on interrupt.

    Args:
        on_line: called with each line of stdout and stderr. A carriage return also ends a line, so that the
            updates of progress bars are seen.

    Returns:
        Its exit code.

    Raises:
        OSError: the program cannot be started.
    """
    child = subprocess.Popen(
        argv,
        env=dict(environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            on_line(line.rstrip())
        # WNOWAIT keeps the zombie, so that the process group id cannot be reused before killpg.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        child.stdout.close()
    return code


def reap() -> dict[int, int]:
    """Collect every child that has ended: pid -> exit code, or minus the signal that killed it."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def send(identity: Identity, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False if it is gone.

    A pidfd refers to the process, so that the pid cannot be reused between the check and the signal.

    Raises:
        PermissionError: this user may not signal it.
    """
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_running(identity):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def how_it_ended(code: int) -> str:
    """An exit code as text: `exit 1`, or the name of the signal for a negative code."""
    if code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
