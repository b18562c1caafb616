"""The host's network interfaces."""

from __future__ import annotations

import socket
from pathlib import Path

from dynamoctl.facts import Interface

_SYS = Path("/sys/class/net")


def interfaces() -> tuple[Interface, ...]:
    """Those that are up and have an IPv4 address, the loopback among them."""
    import psutil

    up = {name for name, one in psutil.net_if_stats().items() if one.isup}
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        own = tuple(one.address for one in addresses if one.family == socket.AF_INET)
        if own and name in up:
            found.append(Interface(name, own, _rdma(name)))
    return tuple(found)


def _rdma(name: str) -> tuple[str, ...]:
    """The RDMA devices of an interface's card, each with its port, which is counted from 1 there."""
    try:
        devices = sorted(one.name for one in (_SYS / name / "device" / "infiniband").iterdir())
        port = int((_SYS / name / "dev_port").read_text(encoding="ascii")) + 1
    except (OSError, ValueError):
        return ()
    return tuple(f"{device}:{port}" for device in devices)
