"""Free TCP ports and who holds the taken ones."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from dynamoctl.host import processes

# Dynamo's system port may not be larger; and below it lie no ports that the kernel hands out by
# itself (net.ipv4.ip_local_port_range starts at 32768).
HIGHEST = 32767
LOWEST = 20000


def _listening() -> dict[int, set[int]]:
    """Port -> the pids that listen on it, on any address; no pids where they are not ours to see."""
    import psutil

    found: dict[int, set[int]] = {}
    for one in psutil.net_connections(kind="tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr:
            found.setdefault(one.laddr.port, set()).update({one.pid} if one.pid else ())
    return found


def free(reserved: Collection[int] = (), most: int = 2000) -> tuple[int, ...]:
    """Up to `most` free ports in a row from a random one on.

    Random, so that two plans made at the same moment, by two users or for two homes, do not reach for
    the same ports; a port that is lost all the same is seen at the unit's gate.

    Args:
        reserved: ports that other deployments have planned and may not have bound yet.
    """
    taken = _listening().keys() | set(reserved)
    first = random.randrange(LOWEST, HIGHEST + 1 - most)  # noqa: S311  (no secret)
    return tuple(port for port in range(first, first + most) if port not in taken)


def listeners(ports: Collection[int]) -> set[tuple[int, int]]:
    """Who listens on these ports now: (port, pid). Who cannot be seen is left out."""
    return {(port, pid) for port, pids in _listening().items() if port in ports for pid in pids}


def can_listen(host: str, port: int) -> str | None:
    """None where this address can be listened on now; otherwise why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
        except OverflowError:
            return "no such port"
    return None


def holder(port: int) -> str:
    """Who listens on a port: `PID (command line)`, or words that say that it cannot be seen."""
    pids = sorted(_listening().get(port, ()))
    if not pids:
        return "a process of another user or container"
    return ", ".join(f"process {pid} ({processes.command_line(pid)})" for pid in pids)
