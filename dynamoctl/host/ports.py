"""Free TCP ports, and the processes that hold the others."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from dynamoctl.host import processes

# Dynamo does not accept a larger system port. The kernel's ephemeral ports start above it
# (net.ipv4.ip_local_port_range, by default from 32768).
HIGHEST = 32767
LOWEST = 20000


def _listening() -> dict[int, set[int]]:
    """Port -> pids that listen on it, on any address; no pids if this user may not see them."""
    import psutil

    pids_by_port: dict[int, set[int]] = {}
    for socket_ in psutil.net_connections(kind="tcp"):
        if socket_.status == psutil.CONN_LISTEN and socket_.laddr:
            pids_by_port.setdefault(socket_.laddr.port, set()).update({socket_.pid} if socket_.pid else ())
    return pids_by_port


def free(reserved: Collection[int] = (), most: int = 2000) -> tuple[int, ...]:
    """The free ports among `most` consecutive ones, from a random port on.

    The first port is random so that two plans made at the same moment, by two users or for two homes, do not
    choose the same ports. A port that is taken nevertheless is detected at the unit's gate.

    Args:
        reserved: ports that other deployments have planned and may not have bound yet.
        most: size of the range.
    """
    taken = _listening().keys() | set(reserved)
    first = random.randrange(LOWEST, HIGHEST + 1 - most)  # noqa: S311  (no secret)
    return tuple(port for port in range(first, first + most) if port not in taken)


def listeners(ports: Collection[int]) -> set[tuple[int, int]]:
    """(port, pid) of the processes that listen on these ports; processes that cannot be seen are left out."""
    return {(port, pid) for port, pids in _listening().items() if port in ports for pid in pids}


def can_listen(host: str, port: int) -> str | None:
    """None if a process can listen on this address now; otherwise why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
        except OverflowError:
            return "no such port"
        except (TypeError, UnicodeError):
            return "this is not the name of a host"
    return None


def holder(port: int) -> str:
    """The processes that listen on a port, as `process PID (command line)`, or a text if none can be seen."""
    pids = sorted(_listening().get(port, ()))
    if not pids:
        return "a process of another user or container"
    return ", ".join(f"process {pid} ({processes.command_line(pid)})" for pid in pids)
