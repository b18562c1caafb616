"""The host's network interfaces."""

from __future__ import annotations

import socket
from pathlib import Path

from dynamoctl.facts import Interface

_SYS = Path("/sys/class/net")
# Of a network for documentation (RFC 5737): nothing is sent there, the kernel is only asked for its route.
_FAR_AWAY = ("203.0.113.1", 9)


def interfaces() -> tuple[Interface, ...]:
    """Those that are up and have an IPv4 address, the loopback among them."""
    import psutil

    up = {name for name, one in psutil.net_if_stats().items() if one.isup}
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        card = name.partition(":")[0]
        own = tuple(one.address for one in addresses if one.family == socket.AF_INET)
        if own and card in up:
            ipv6 = any(one.family == socket.AF_INET6 for one in addresses)
            found.append(Interface(name, own, ipv6, _rdma(card)))
    return tuple(found)


def way_out() -> str | None:
    """This host's address on its way to other networks; without a way, its first but the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_FAR_AWAY)
            return str(probe.getsockname()[0])
        except OSError:
            pass
    others = (one.addresses[0] for one in interfaces() if not one.addresses[0].startswith("127."))
    return next(others, None)


def _rdma(card: str) -> tuple[str, ...]:
    """The RDMA devices of an interface's card, each with its port, which is counted from 1 there."""
    try:
        devices = sorted(one.name for one in (_SYS / card / "device" / "infiniband").iterdir())
        port = int((_SYS / card / "dev_port").read_text(encoding="ascii")) + 1
    except (OSError, ValueError):
        return ()
    return tuple(f"{device}:{port}" for device in devices)
